"""`SQL-v1`: questions over a database, and what it is made of.

| module             | what                                                              |
|--------------------|-------------------------------------------------------------------|
| `sql`              | the environment                                                   |
| `database`         | what a database is to the environment, and how one fails          |
| `sqlite_database`  | SQLite files, read-only                                           |
| `postgres_database` | schemas of a PostgreSQL server, read-only                        |
| `match`            | execution match: whether two results are the same                 |
| `partial`          | partial credit for wrong queries                                  |
| `domains`          | what the generated databases are about                            |
| `families`         | the kinds of questions, each with its reference and wrong queries |
| `generator`        | databases and questions from a seed                               |
| `library`          | databases with variants, and questions, in files                  |
| `loaders`, `chinook` | Spider and BIRD folders, Chinook                                |
"""
