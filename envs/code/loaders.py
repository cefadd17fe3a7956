"""Published problem sets, read from the user's files in their original form.

| name        | a record                                                                                              |
|-------------|-------------------------------------------------------------------------------------------------------|
| `humaneval` | task_id, prompt, entry_point, canonical_solution, test: JSON lines                                       |
| `mbpp`      | task_id, prompt (or text), code, test_list, test_imports (or test_setup_code): a JSON list or JSON lines |
| `apps`      | question, input_output, solutions, difficulty, starter_code: JSON lines, or a folder for each problem with question.txt, input_output.json, solutions.json, metadata.json |

What the agent may see of the tests: the examples in a HumanEval prompt, the first assertion of an MBPP problem, the first input
of an APPS problem. All published tests are hidden ones.

What is wrong in a file is told with its name, the record and the field.
"""

from __future__ import annotations

import ast
import doctest
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import UsageError
from ..tasks import ListedTasks, Task
from .problems import Case, Exchange, Problem, Script, Test

Dataset = Literal["humaneval", "mbpp", "apps"]


class InvalidData(UsageError):
    """Raised when a data file is missing or malformed; the message names the file, the record and the field."""


class Record(NamedTuple):
    """One object of a file.

    Attributes:
        file: where it stands.
        place: which one it is, as text.
        data: its fields.
    """

    file: Path
    place: str
    data: Mapping[str, Any]

    def wrong(self, field: str, wanted: str) -> InvalidData:
        """The error for a field."""
        found = f"got {self.data[field]!r:.80}" if field in self.data else "it is missing"
        return InvalidData(f"{self.file}, {self.place}: {field!r} must be {wanted}, {found}")

    def text(self, *fields: str) -> str:
        """The text of the first of these fields that is there."""
        field = next((f for f in fields if f in self.data), fields[0])
        value = self.data.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(field, "a text that is not empty")
        return value

    def texts(self, field: str) -> list[str]:
        """A list of texts; a missing field is an empty one."""
        value = self.data.get(field, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(field, "a list of texts")
        return value

    def python(self, field: str, text: str) -> ast.Module:
        """A program, parsed."""
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise InvalidData(f"{self.file}, {self.place}: {field!r} is not Python: {error}") from None


def load(dataset: Dataset, path: Path) -> ListedTasks:
    """The tasks of a published set.

    HumanEval is a test set. MBPP has the splits of its paper by task_id: 601 to 974 train, 511 to 600 val, the rest test. APPS has that
    of the folder or file name (train or test), else test.

    Raises:
        InvalidData: see the class.
    """
    tasks: dict[str, Task] = {}
    for record in _records(dataset, path):
        task = _READERS[dataset](record)
        if task.id in tasks:
            raise record.wrong("id" if dataset == "apps" else "task_id", "unique in the set")
        tasks[task.id] = task
    if not tasks:
        raise InvalidData(f"{path}: there is no problem in it")
    return ListedTasks(list(tasks.values()))


def _records(dataset: Dataset, path: Path) -> Iterator[Record]:
    if path.is_dir() and dataset == "apps":
        yield from _folders(path)
        return
    if not path.is_file():
        raise InvalidData(f"{path}: there is no such file; problems= names the file of the data set")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path}: it cannot be read: {error}") from None
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise InvalidData(f"{path}: it is not JSON: {error}") from None
        placed = [(f"record {n}", row) for n, row in enumerate(rows, 1)]
    else:
        placed = []
        for n, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    placed.append((f"line {n}", json.loads(line)))
                except ValueError as error:
                    raise InvalidData(f"{path}, line {n}: it is not JSON: {error}") from None
    for place, row in placed:
        if not isinstance(row, dict):
            raise InvalidData(f"{path}, {place}: a record must be an object, got {row!r:.80}")
        yield Record(path, place, row)


def _folders(path: Path) -> Iterator[Record]:
    """APPS as released: a folder for each problem."""
    folders = sorted(p.parent for p in path.rglob("question.txt"))
    if not folders:
        raise InvalidData(f"{path}: there is no question.txt in this folder or below it")
    for folder in folders:
        data: dict[str, Any] = {"id": folder.relative_to(path).as_posix()}
        for field, name in (("question", "question.txt"), ("starter_code", "starter_code.py")):
            if (folder / name).is_file():
                data[field] = (folder / name).read_text(encoding="utf-8")
        for field, name in (("input_output", "input_output.json"), ("solutions", "solutions.json")):
            if (folder / name).is_file():
                data[field] = (folder / name).read_text(encoding="utf-8")
        if (folder / "metadata.json").is_file():
            try:
                data |= json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
            except (ValueError, TypeError) as error:
                raise InvalidData(f"{folder / 'metadata.json'}: it is not a JSON object: {error}") from None
        yield Record(folder / "question.txt", "its folder", data)


def _human_eval(record: Record) -> Task:
    prompt, entry = record.text("prompt"), record.text("entry_point")
    solution = record.data.get("canonical_solution")
    if not isinstance(solution, str):
        raise record.wrong("canonical_solution", "a text")
    program = prompt + solution
    functions = [
        n for n in record.python("canonical_solution", program).body if isinstance(n, ast.FunctionDef)
    ]
    head = next((f for f in functions if f.name == entry), None)
    if head is None:
        raise record.wrong("entry_point", "the name of a function in prompt and canonical_solution")
    hidden = _checks(record, record.text("test"))
    visible = [
        Script(
            f"assert {example.source.strip()} == {example.want.strip()}".replace(f"{entry}(", "candidate(", 1)
        )
        for example in doctest.DocTestParser().get_examples(ast.get_docstring(head) or "")
        if example.source.startswith(f"{entry}(") and _is_literal(example.want)
    ]
    problem = Problem(
        statement=prompt.strip(),
        form="function",
        entry=entry,
        signature="",
        visible=tuple(visible[: len(hidden) - 1]),
        hidden=tuple(hidden),
        reference=program,
        library=program,
        called="candidate",
    )
    return Task(record.text("task_id"), "test", data={"problem": problem}, family="humaneval")


def _checks(record: Record, test: str) -> list[Script]:
    """One test for each assertion of `check(candidate)` where it is nothing but assertions, else one for all of it."""
    module = record.python("test", test)
    check = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None or [a.arg for a in check.args.args] != ["candidate"]:
        raise record.wrong("test", "a program that defines check(candidate)")
    if all(isinstance(n, ast.Assert) for n in check.body):
        return [Script(ast.unparse(n)) for n in check.body if not _is_idle(n)]
    return [Script(f"{test}\n\ncheck(candidate)\n")]


def _is_idle(node: ast.stmt) -> bool:
    """Whether an assertion calls nothing, as `assert True`."""
    return not any(isinstance(n, ast.Call) for n in ast.walk(node))


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _mbpp(record: Record) -> Task:
    number = record.data.get("task_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise record.wrong("task_id", "a whole number")
    code = record.text("code")
    tests = record.texts("test_list")
    if not tests:
        raise record.wrong("test_list", "a list of at least one assertion")
    imports = record.data.get("test_setup_code", "")
    if not isinstance(imports, str):
        raise record.wrong("test_setup_code", "a text")
    setup = "\n".join([*record.texts("test_imports"), imports]).strip()
    defined = {n.name for n in record.python("code", code).body if isinstance(n, ast.FunctionDef)}
    called = [
        n.func.id
        for test in tests
        for n in ast.walk(record.python("test_list", test))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in defined
    ]
    if not called:
        raise record.wrong("test_list", "assertions that call a function of `code`")
    scripts = tuple(Script(f"{setup}\n{test}".strip()) for test in tests)
    problem = Problem(
        statement=record.text("prompt", "text").strip(),
        form="function",
        entry=called[0],
        signature="",
        visible=scripts[:1] if len(scripts) > 1 else (),
        hidden=scripts,
        reference=code,
        library=code,
        called=called[0],
    )
    split = "train" if 601 <= number <= 974 else "val" if 511 <= number <= 600 else "test"
    return Task(f"MBPP/{number}", split, data={"problem": problem}, family="mbpp")


def _apps(record: Record) -> Task:
    tests = _embedded(record, "input_output")
    if not isinstance(tests, dict):
        raise record.wrong("input_output", "an object with inputs and outputs")
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if (
        not isinstance(inputs, list)
        or not isinstance(outputs, list)
        or not inputs
        or len(inputs) != len(outputs)
    ):
        raise record.wrong(
            "input_output", "an object whose inputs and outputs are lists of one length, not empty"
        )
    starter = record.data.get("starter_code") or ""
    solutions = _embedded(record, "solutions") if record.data.get("solutions") else []
    if not isinstance(solutions, list) or not all(isinstance(s, str) for s in solutions):
        raise record.wrong("solutions", "a list of programs")
    entry = tests.get("fn_name") or ""
    if not isinstance(entry, str) or not isinstance(starter, str):
        raise record.wrong("input_output", "an object whose fn_name is a text")
    hidden: list[Test]
    if entry:
        if not all(isinstance(i, list) for i in inputs):
            raise record.wrong("input_output", "inputs that are lists of arguments, since it has a fn_name")
        hidden = [Case(tuple(i), o, loose=True) for i, o in zip(inputs, outputs, strict=True)]
        entry = f"Solution.{entry}" if "class Solution" in starter else entry
    else:
        hidden = [Exchange(_joined(i), _joined(o)) for i, o in zip(inputs, outputs, strict=True)]
    problem = Problem(
        statement=record.text("question").strip(),
        form="function" if entry else "io",
        entry=entry,
        signature=starter.strip(),
        visible=tuple(hidden[:1]) if len(hidden) > 1 else (),
        hidden=tuple(hidden),
        reference=solutions[0] if solutions else "",
    )
    names = (*record.file.parts[-3:-1], record.file.stem)
    split = next((s for s in ("train", "test") if s in names), "test")
    level = record.data.get("difficulty", "")
    identifier = next(
        (record.data[f] for f in ("id", "problem_id", "task_id") if f in record.data), record.place
    )
    return Task(
        f"APPS/{identifier}",
        split,
        data={"problem": problem},
        family="apps",
        difficulty=level if isinstance(level, str) else "",
    )


def _embedded(record: Record, field: str) -> Any:
    """A field that holds JSON, as text or as it is."""
    value = record.data.get(field)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise InvalidData(f"{record.file}, {record.place}: {field!r} is not JSON: {error}") from None


def _joined(text: Any) -> str:
    """Input or output as one text; some problems have a list of lines."""
    return (
        text if isinstance(text, str) else "\n".join(map(str, text)) if isinstance(text, list) else str(text)
    )


_READERS: Mapping[str, Callable[[Record], Task]] = {"humaneval": _human_eval, "mbpp": _mbpp, "apps": _apps}
