"""Grading a program: it runs in a sandbox, and what it gave is compared with what it should, here.

A program cannot forge a result, since there is nothing to forge: no expected result enters the sandbox in which it runs, and
what comes out is plain data, compared by `values.same`. A test counts as passed when its own answer came back, so that one
who ends the process early, prints verdicts, patches the interpreter or reads its memory fails the tests that are left.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from ...sandbox import ExecResult
from ..errors import EnvFailure
from .problems import Case, Exchange, Problem, Script, Test
from .runner import LATE
from .sessions import Sessions
from .values import Opaque, decode, encode, same, same_output


def _inside(name: str) -> str:
    """A program for the sandbox from a module of ours, behind that of `values`.

    It is compiled here, which saves milliseconds of every call, and brings its text for another version of Python.
    """
    texts = [Path(__file__).with_name(n).read_text(encoding="utf-8") for n in ("values.py", name)]
    text = "".join([texts[0], texts[1].replace("from __future__ import annotations\n", "")])
    code = marshal.dumps(compile(text, name, "exec"))
    magic = importlib.util.MAGIC_NUMBER
    return (
        "import marshal\nfrom importlib.util import MAGIC_NUMBER\n"
        f"exec(marshal.loads({code!r}) if MAGIC_NUMBER == {magic!r} else {text!r})\n"
    )


RUNNER, JUDGE = _inside("runner.py"), _inside("judge.py")

_STARTS = 4
"""How often a program is started for one grading: it may end itself or hang in as many tests less one."""
_ROUNDS = 3
"""How often tests of a published set may ask for calls that the reference did not make."""
_SHOWN = 160


class JudgeBroken(EnvFailure):
    """Raised when a published set's own test code does not run to its end on its reference solution."""


class Outcome(NamedTuple):
    """How one test went.

    Attributes:
        passed: whether it passed.
        test: what was tested, as text: the call, the input, the assertion.
        got: what the program did, as text.
        expected: what it should have done; empty where the test itself says so.
    """

    passed: bool
    test: str
    got: str
    expected: str


@dataclass(frozen=True)
class Report:
    """How a program went through tests.

    Attributes:
        stage: `syntax` (it does not compile), `load` (it fails before it can be asked anything), `ran`.
        trouble: what went wrong before the tests, empty where nothing did.
        outcomes: one for each test, in order.
    """

    stage: str
    trouble: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> int:
        """Number of tests that passed."""
        return sum(o.passed for o in self.outcomes)

    @property
    def solved(self) -> bool:
        """Whether all passed."""
        return self.passed == len(self.outcomes) > 0

    @property
    def progress(self) -> float:
        """How far the program got, in [0, 1]: 0.1 when it compiles, 0.2 when it runs, 0.3 when it passes the first test, and the
        share of the tests that it passes times 0.7 on top; 1 when it passes all.
        """
        if self.stage == "syntax":
            return 0.0
        if self.stage == "load":
            return 0.1
        share = self.passed / len(self.outcomes)
        return 1.0 if self.solved else 0.2 + 0.1 * self.outcomes[0].passed + 0.7 * share


def grade(
    sessions: Sessions,
    problem: Problem,
    program: str,
    tests: Sequence[Test],
    *,
    language: str,
    seconds: float,
) -> Report:
    """Run a program against tests of its problem.

    Args:
        sessions: where it runs.
        problem: what it should solve.
        program: its text.
        tests: all of one kind.
        language: what it is written in; functions are written in Python.
        seconds: for each test.
    """
    if problem.form == "io":
        return _exchanges(sessions, program, tests, language, seconds)
    if isinstance(tests[0], Script):
        return _scripts(sessions, problem, program, [t for t in tests if isinstance(t, Script)], seconds)
    cases = [t for t in tests if isinstance(t, Case)]
    calls = [[encode(case.arguments), encode({})] for case in cases]
    stage, trouble, answers = _answers(sessions, problem.entry, program, calls, seconds)
    outcomes = []
    for case, answer in zip(cases, answers, strict=True):
        value, got = _read(answer)
        outcomes.append(
            Outcome(
                "value" in answer and _agrees(value, case),
                f"{problem.entry}({', '.join(map(repr, case.arguments))})",
                got,
                repr(case.expected),
            )
        )
    return Report(stage, trouble, tuple(outcomes))


_CALL = """
from importlib import import_module


def call(module, name, arguments):
    return getattr(import_module(module), name)(*arguments)
"""


def passed_calls(
    sessions: Sessions, calls: Sequence[tuple[str, str, Case]], files: Mapping[str, bytes], seconds: float
) -> list[bool]:
    """Which calls of functions of a package (module, function, case) give what they should.

    Args:
        sessions: where they run, on a copy of the files.
        calls: all in one process, as in `grade`.
        files: content by path.
        seconds: for each call.
    """
    encoded = [[encode((module, name, case.arguments)), encode({})] for module, name, case in calls]
    _, _, answers = _answers(sessions, "call", _CALL, encoded, seconds, files)
    return [
        "value" in a and same(_read(a)[0], call[2].expected) for a, call in zip(answers, calls, strict=True)
    ]


def _agrees(value: Any, case: Case) -> bool:
    if not case.loose:
        return same(value, case.expected)
    value, expected = _listed(value), case.expected
    return same(value, expected) or (
        isinstance(expected, list) and len(expected) == 1 and same(value, expected[0])
    )


def _listed(value: Any) -> Any:
    """A value with lists in place of tuples."""
    if isinstance(value, (list, tuple)):
        return [_listed(v) for v in value]
    return {k: _listed(v) for k, v in value.items()} if isinstance(value, dict) else value


# ---- functions ----

Answer = dict[str, Any]
"""What came back of a call: `value`, encoded; or `error`, with `said` and `line`."""


def _answers(
    sessions: Sessions,
    entry: str,
    program: str,
    calls: Sequence[Any],
    seconds: float,
    files: Mapping[str, bytes] | None = None,
) -> tuple[str, str, list[Answer]]:
    """Stage, trouble, and an answer to each call.

    All calls are made in one process. Where it ends early, the call that ended it has failed, and the rest is made in another.
    """
    found: dict[int, Answer] = {}
    stage, trouble = "ran", ""
    for _ in range(_STARTS):
        left = [[i, *call] for i, call in enumerate(calls) if i not in found]
        job = {"source": program, "entry": entry, "calls": left, "seconds": seconds}
        result = sessions.run_cases(RUNNER, [json.dumps(job)], timeout=seconds * 2 + 1, files=files)[0]
        lines = lines_of(result)
        first = next((line for line in lines if line.get("stage") in ("syntax", "load", "loaded")), None)
        if first is None or first["stage"] != "loaded":
            if not found:
                stage = "load" if first is None else first["stage"]
                trouble = _ended(result) if first is None else _said(first)
            break
        for line in lines:
            i = line.get("call")
            if isinstance(i, int) and 0 <= i < len(calls) and ("value" in line or "error" in line):
                found.setdefault(i, line)
        missing = next((i for i in range(len(calls)) if i not in found), None)
        late = sum(answer.get("error") == "Overtime" for answer in found.values())
        if missing is None or late >= LATE:
            break
        found[missing] = {"error": "", "said": _ended(result)}
        if len(found) == len(calls):
            break
    rest: Answer = {"error": "", "said": trouble or "was not run: too many tests before it were not finished"}
    return stage, trouble, [found.get(i, rest) for i in range(len(calls))]


def lines_of(result: ExecResult) -> list[dict[str, Any]]:
    """The lines of the runner; whatever else stands there is skipped."""
    found = []
    for text in result.stdout.split("\n"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


def _read(answer: Answer) -> tuple[Any, str]:
    """The value of an answer, and how it is told."""
    if "value" not in answer:
        return None, _said(answer)
    try:
        value = decode(answer["value"])
        return value, f"returned {_brief(repr(value))}"
    except (ValueError, RecursionError):
        return Opaque("unreadable"), "returned something unreadable"


def _said(line: dict[str, Any]) -> str:
    kind, text = str(line.get("error", "")), _stable(str(line.get("said", "")))
    if kind == "Overtime":
        return "took too long"
    where = f" (line {line['line']})" if line.get("line") else ""
    return f"raised {kind}{': ' if text else ''}{_brief(text)}{where}" if kind else text


def _ended(result: ExecResult) -> str:
    return {
        "timeout": "took too long",
        "memory": "used too much memory",
        "ok": "ended the process",
        "error": "ended the process",
    }.get(result.status, "crashed the process")


# ---- programs on standard input and output ----


def _exchanges(
    sessions: Sessions, program: str, tests: Sequence[Test], language: str, seconds: float
) -> Report:
    exchanges = [t for t in tests if isinstance(t, Exchange)]
    results = sessions.run_cases(program, [e.stdin for e in exchanges], language=language, timeout=seconds)
    if results[0].status == "compile":
        return Report("syntax", _tail(results[0].stderr), tuple(_unrun(e) for e in exchanges))
    if language == "python" and all(_SYNTAX.search(r.stderr) for r in results):
        return Report("syntax", _tail(results[0].stderr), tuple(_unrun(e) for e in exchanges))
    outcomes = []
    for exchange, result in zip(exchanges, results, strict=True):
        printed = f"printed {_brief(repr(result.stdout))}"
        got = printed if result.ok else last_line(result)
        outcomes.append(
            Outcome(
                result.ok and not result.truncated and same_output(exchange.expected, result.stdout),
                f"the input {_brief(repr(exchange.stdin))}",
                got,
                f"{_brief(repr(exchange.expected))}",
            )
        )
    return Report("ran" if results[0].ok else "load", "", tuple(outcomes))


_SYNTAX = re.compile(r"^(SyntaxError|IndentationError|TabError): ", re.MULTILINE)


def _unrun(exchange: Exchange) -> Outcome:
    return Outcome(
        False, f"the input {_brief(repr(exchange.stdin))}", "was not run", _brief(repr(exchange.expected))
    )


# ---- test code of published sets ----


def recorded_calls(
    sessions: Sessions, problem: Problem, tests: Sequence[Script], seconds: float
) -> list[Any]:
    """The calls that tests make when the reference answers: (arguments, named arguments), encoded, none twice."""
    texts = [t.code for t in tests]
    key = (problem.library, problem.entry, *texts)
    with _lock:
        calls = _recorded.get(key)
    if calls is None:
        lines = _judged(sessions, problem, texts, [], seconds, record=True)
        calls = _distinct(call for line in lines for call in line["calls"])
        with _lock:
            _recorded[key] = calls
            if len(_recorded) > _REMEMBERED:
                _recorded.popitem(last=False)
    return list(calls)


_recorded: OrderedDict[tuple[str, ...], list[Any]] = OrderedDict()
_lock = Lock()
_REMEMBERED = 4096


def _scripts(
    sessions: Sessions, problem: Problem, program: str, tests: Sequence[Script], seconds: float
) -> Report:
    texts = [t.code for t in tests]
    calls = recorded_calls(sessions, problem, tests, seconds)
    answers: list[Answer] = []
    for _ in range(_ROUNDS):
        stage, trouble, more = _answers(sessions, problem.entry, program, calls[len(answers) :], seconds)
        answers += more
        if stage != "ran":
            return Report(stage, trouble, tuple(Outcome(False, t, trouble, "") for t in texts))
        lines = _judged(
            sessions, problem, texts, list(zip(calls, answers, strict=True)), seconds, record=False
        )
        known = {json.dumps(call) for call in calls}
        fresh = _distinct(c for line in lines for c in line["calls"] if json.dumps(c) not in known)
        if not fresh:
            break
        calls += fresh
    by_call = {json.dumps(call): answer for call, answer in zip(calls, answers, strict=False)}
    outcomes = []
    for text, line in zip(texts, lines, strict=True):
        made = [_read(by_call[json.dumps(c)])[1] for c in line["calls"] if json.dumps(c) in by_call]
        got = "; ".join(dict.fromkeys(made[:3])) or "was not called"
        outcomes.append(Outcome(line["verdict"] == "passed", text, got, ""))
    return Report("ran", "", tuple(outcomes))


def _judged(
    sessions: Sessions,
    problem: Problem,
    texts: Sequence[str],
    answers: Sequence[Any],
    seconds: float,
    *,
    record: bool,
) -> list[dict[str, Any]]:
    """Run the test code; it meets the program under test as plain values alone."""
    job = {
        "library": problem.library,
        "entry": problem.entry,
        "called": problem.called,
        "tests": texts,
        "answers": answers,
        "record": record,
    }
    result = sessions.run_cases(JUDGE, [json.dumps(job)], timeout=seconds * len(texts) + 5)[0]
    lines = lines_of(result)
    if len(lines) != len(texts):
        raise JudgeBroken(
            f"the tests of {problem.entry} ended with status {result.status}: {_tail(result.stderr) or 'no message'}"
        )
    return lines


def _distinct(calls: Any) -> list[Any]:
    return list({json.dumps(call): call for call in calls}.values())


# ---- texts ----


def _brief(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def _stable(text: str) -> str:
    """Text of a program without what differs from run to run."""
    return _ADDRESS.sub("0x...", text)


def last_line(result: ExecResult) -> str:
    """How a run that was not well ended: the last line of its standard error, or what stopped it."""
    return _tail(result.stderr) if result.status in ("error", "compile") else _ended(result)


def _tail(text: str) -> str:
    """The last line of what a program wrote to standard error."""
    lines = text.strip().splitlines()
    return _brief(_stable(lines[-1].strip())) if lines else "ended with an error"
