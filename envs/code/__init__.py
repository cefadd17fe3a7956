"""`Code-v1` and `CodeRepair-v1`: programming tasks, and what they are made of.

| module       | what                                                                     |
|--------------|--------------------------------------------------------------------------|
| `families`   | 82 kinds of tasks with reference solutions and mutants                    |
| `generator`  | a problem from a family, a split and a seed, in either form               |
| `problems`   | what a problem is, and the kinds of tests                                 |
| `values`     | the encoding in which values leave a sandbox, and equality that knows types |
| `runner`     | what runs around a function under test, in the sandbox                    |
"""
