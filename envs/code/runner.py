"""What runs in the sandbox around a function under test; its text goes in behind that of `values.py`.

It reads a job from standard input, loads the program, calls the function once per case and writes a line for each. The
lines go to a copy of standard output that the program has no name for. Nothing here needs to be hidden: the job holds
arguments and no expected result, so whatever the program writes to any file descriptor is at best an answer.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .values import decode, encode

FILE = "solution.py"
LATE = 3
"""So many calls may take too long; then the rest is left."""


class Overtime(BaseException):
    """Raised by the timer in a call that takes too long; no `except Exception` holds it up."""


def overtime(*_: Any) -> None:
    """Handle the timer."""
    raise Overtime


def said(error: BaseException) -> dict[str, Any]:
    """An exception as a line: its type, what it says and where in the program it was raised."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:
        text = ""
    return {"error": type(error).__name__[:80], "said": str(text)[:300], "line": line}


def main() -> None:
    """Run the job."""
    job = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)

    def answer(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    signal.signal(signal.SIGALRM, overtime)
    space: dict[str, Any] = {"__name__": "solution", "__builtins__": __builtins__}
    try:
        code = compile(job["source"], FILE, "exec")
    except BaseException as error:
        answer({"stage": "syntax", **said(error)})
        return
    try:
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        exec(code, space)
        name, _, method = job["entry"].partition(".")
        if name not in space:
            raise NameError(f"the program defines no {name}")
        function = getattr(space[name](), method) if method else space[name]
        signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        answer({"stage": "load", **said(error)})
        return
    answer({"stage": "loaded"})
    late = 0
    for number, arguments, named in job["calls"]:
        if late == LATE:
            break
        arguments, named = decode(arguments), decode(named)
        try:
            signal.setitimer(signal.ITIMER_REAL, job["seconds"])
            value = function(*arguments, **named)
            line = {"value": encode(value)}
            signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            late += isinstance(error, Overtime)
            line = said(error)
        answer({"call": number, **line})


if __name__ == "__main__":
    main()
