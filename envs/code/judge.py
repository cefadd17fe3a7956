"""What runs a published set's own test code, in a sandbox without the program under test; sent in behind `values.py`.

The function that the tests call is a stand-in. First it asks the reference solution and notes the calls; then the program
under test makes those calls in a sandbox of its own, and this runs again with a stand-in that looks the answers up. Only
plain values go from one to the other, so the tests meet no object of the program's.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .values import decode, encode, same


class Failed(Exception):
    """Raised in place of what the program under test raised."""


class Unknown(BaseException):
    """Raised for a call whose answer is not known yet."""


def main() -> None:
    """Run the job: a line for each test."""
    job = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    known = {json.dumps(call): answer for call, answer in job["answers"]}
    space: dict[str, Any] = {"__name__": "tests"}
    exec(compile(job["library"], "reference.py", "exec"), space)
    reference: Callable[..., Any] = space[job["entry"]]
    space |= {"reference": reference, "agree": lambda a, b: a == b or same(a, b)}
    for number, text in enumerate(job["tests"]):
        made: list[Any] = []

        def stand_in(*arguments: Any, **named: Any) -> Any:
            call = [encode(arguments), encode(named)]
            made.append(call)  # noqa: B023
            if job["record"]:
                return reference(*arguments, **named)
            answer = known.get(json.dumps(call))
            if answer is None:
                raise Unknown
            if "value" in answer:
                return decode(answer["value"])
            raise Failed(answer["error"])

        random.seed(0)  # tests that draw their inputs draw the same every time
        verdict = "passed"
        try:
            exec(compile(text, "test.py", "exec"), {**space, job["called"]: stand_in})
        except Unknown:
            verdict = "unknown"
        except BaseException as error:
            verdict = type(error).__name__
        answers.write(json.dumps({"test": number, "verdict": verdict, "calls": made}) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
