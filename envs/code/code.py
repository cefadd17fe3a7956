"""`Code-v1`: write a program that passes tests, of which some are shown."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ...sandbox import LANGUAGES, Limits
from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter, nearest
from ..tasks import Task, TaskSet
from ..tools import Call, tool
from . import expressions, generator
from .diagnostics import Analyser, analyser
from .families import FAMILIES, Difficulty
from .generated_tasks import GeneratedTasks
from .grading import Report, grade, last_line
from .hardening import harden
from .loaders import Dataset, load
from .problems import Case, Exchange, Form, Problem
from .sessions import Sessions

_LONGEST_OUTPUT = 2_000
_LONGEST_PROGRAM = 20_000
_FAILED_SHOWN = 3

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Code(TurnEnv):
    """Write a program that does what a statement asks; hidden tests decide.

    Observation: first the statement, the signature or the layout of input and output, and the visible tests. `run` shows what the
        program printed, `test` how many visible tests pass and, of up to three that fail, the input, what came and what should
        have come.
    Tools: `run(code)` runs a program, in the form `io` on the first visible input; `test(code)` runs the visible tests;
        `submit(code)` ends the episode. `style="short"` has no `run`.
    Reward: the score, when a program is submitted. With `reward="step"` also the change of the potential `test_reward` x progress
        of the best program tested so far, where progress is 0.1 for a program that compiles, 0.2 for one that runs, 0.3 for one
        that passes the first test, and 0.7 x the share of tests passed on top; and, with `diagnostics`,
        `diagnostics_reward` for each error of the analyser less than in the program before, and minus it for each more.
    Terminated: a program was submitted; success if it passes all hidden tests. The score is then 1, else `partial_credit` x its
        progress in the hidden tests. Truncated: `max_turns` (8 as registered), score 0.
    Task: generated, of 82 families (`families`, `difficulty`); or of HumanEval, MBPP or a set in the form of APPS, from the user's
        file. `form="io"` asks generated ones for programs in any `language` of the sandbox.
    State key: the task, the best progress so far, and the analyser's errors where they are paid for. Expert: tests the reference
        solution and submits it; with `demonstrate="repair"` it tests a mutant first. It writes Python.
    Failure: a sandbox that goes away is `SandboxLost` or `SandboxMissing`.
    Source: partial credit for how far a program got as in agents for machine-learning engineering (Yang et al., arXiv 2509.01684);
        replayable rewards from an analyser: Lanser-CLI (arXiv 2510.22907).
    """

    dataset: Literal["generated"] | Dataset = "generated"
    problems: Path | None = None
    families: tuple[str, ...] = ()
    difficulty: Literal["any"] | Difficulty = "any"
    form: Form = "function"
    language: str = "python"
    style: Literal["full", "short"] = "full"
    hardened: bool = False
    sandbox: str = "bubblewrap"
    allow_unsafe: bool = False
    seconds: Annotated[float, Field(gt=0.0)] = 2.0
    memory: Annotated[int, Field(ge=64)] = 256
    test_reward: Annotated[float, Field(ge=0.0)] = 0.5
    partial_credit: Share = 0.5
    diagnostics: Literal["none", "pyright", "jedi"] = "none"
    diagnostics_reward: Annotated[float, Field(ge=0.0)] = 0.05
    demonstrate: Literal["solution", "repair"] = "solution"

    blocking = True
    rules = (
        "Write a program that does what is asked. Try it with run and test as often as your turns allow, then submit it. Hidden"
        " tests decide, more than those you see. A program is always given whole; nothing of the one before is kept."
    )

    def load_tasks(self) -> TaskSet:
        """The tasks, and the sandboxes that their programs run in."""
        if self.language not in LANGUAGES:
            raise InvalidParameter(
                f"language={self.language!r} is none of the sandbox's.{nearest(self.language, LANGUAGES)} Known:"
                f" {', '.join(LANGUAGES)}"
            )
        if self.language != "python" and self.form != "io" and self.dataset != "apps":
            raise InvalidParameter(
                f"language={self.language!r} needs form='io'; functions are written in Python"
            )
        tasks = self._generated() if self.dataset == "generated" else self._published()
        if self.style == "short":
            self.tools = {name: spec for name, spec in self.tools.items() if name != "run"}  # type: ignore[misc]
        limits = Limits(
            wall_seconds=max(30.0, 4 * self.seconds),
            cpu_seconds=max(30.0, 4 * self.seconds),
            memory_bytes=self.memory << 20,
        )
        self._sessions = Sessions(self.sandbox, limits, allow_unsafe=self.allow_unsafe)
        self._analyser: Analyser | None = None if self.diagnostics == "none" else analyser(self.diagnostics)
        self._rewards: dict[str, float] = {}
        return tasks

    def _generated(self) -> TaskSet:
        if self.problems is not None:
            raise InvalidParameter("problems= belongs to a published set; name it, as in dataset='humaneval'")
        if self.hardened:
            raise InvalidParameter(
                "hardened=True is for published sets; generated tests tell mutants already"
            )
        if self.style == "short":
            known = dict(expressions.FAMILIES)
            if self.form != "function" or self.difficulty != "any":
                raise InvalidParameter("style='short' has one form, 'function', and no choice of difficulty")
        else:
            known = {
                name: f.difficulty
                for name, f in FAMILIES.items()
                if self.form == "function" or generator.has_io(f)
            }
        for name in self.families:
            if name not in known:
                raise InvalidParameter(
                    f"families: there is no {name!r} of form={self.form!r}, style={self.style!r}.{nearest(name, known)}"
                )
        chosen = [
            (name, level)
            for name, level in known.items()
            if (not self.families or name in self.families) and self.difficulty in ("any", level)
        ]
        if not chosen:
            raise InvalidParameter(
                f"none of the families {self.families} is of difficulty={self.difficulty!r}"
            )
        return GeneratedTasks(chosen)

    def _published(self) -> TaskSet:
        given = [
            n for n in ("families", "difficulty", "form", "style") if getattr(self, n) != getattr(Code, n)
        ]
        if given:
            raise InvalidParameter(f"{given[0]} is for generated tasks; dataset={self.dataset!r} has its own")
        if self.problems is None:
            raise InvalidParameter(f"dataset={self.dataset!r} is read from your file: give problems=PATH")
        assert self.dataset != "generated"
        return load(self.dataset, self.problems)

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Say what is asked."""
        self.problem: Problem = self._problem_of(task)
        self.best = 0.0  # progress of the best program tested so far
        self.tests_made = 0
        self.errors: int | None = None  # of the program before, by the analyser
        return self._short_opening() if self.style == "short" else self._opening()

    def _problem_of(self, task: Task) -> Problem:
        if self.dataset != "generated":
            problem = task.data["problem"]
            assert isinstance(problem, Problem)
            return harden(self._sessions, problem).problem if self.hardened else problem
        if self.style == "short":
            return expressions.generate(task.family, task.split, task.seed)
        return generator.generate(task.family, task.split, task.seed, self.form)

    def _opening(self) -> str:
        problem = self.problem
        parts = [problem.statement]
        if problem.signature:
            parts.append(f"Write the function\n\n{problem.signature}")
        elif problem.form == "io":
            parts.append(
                f"Write a program in {self.language} that reads standard input and writes standard output."
            )
        else:
            parts.append(f"Write the function {problem.entry}.")
        if problem.visible:
            lines = [self._example(test) for test in problem.visible]
            parts.append("The visible tests:\n" + "\n".join(lines))
        return "\n\n".join(parts)

    def _example(self, test: Any) -> str:
        if isinstance(test, Case):
            return f"{self.problem.entry}({', '.join(map(repr, test.arguments))}) == {test.expected!r}"
        if isinstance(test, Exchange):
            return f"input:\n{test.stdin.rstrip()}\noutput:\n{test.expected.rstrip()}"
        return str(test.code)

    def _short_opening(self) -> str:
        cases = [c for c in self.problem.visible if isinstance(c, Case)]
        return f"{self.problem.statement}: " + " ".join(f"f({c.arguments[0]})={c.expected}" for c in cases)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TurnEnv.step`; info has `rewards` by name in addition, which sum to the reward."""
        self._rewards = {}
        observation, reward, terminated, truncated, info = super().step(action)
        if self.reward == "outcome":
            self._rewards = {"outcome": reward} if reward else {}
        elif info["shaping"]:
            self._rewards["tests"] = info["shaping"]
        info["rewards"] = self._rewards
        return observation, reward, terminated, truncated, info

    @tool
    def run(self, code: str) -> Outcome:
        """Run a program and see what it prints.

        Args:
            code: the whole program.
        """
        if too_long := self._too_long(code):
            return too_long
        first = self.problem.visible[0] if self.problem.visible else None
        stdin = first.stdin if isinstance(first, Exchange) else ""
        paid = self._diagnosed(code)
        result = self._sessions.run_cases(code, [stdin], language=self.language, timeout=self.seconds)[0]
        said = result.stdout
        if not result.ok:
            said += f"{'' if not said or said.endswith(chr(10)) else chr(10)}[{last_line(result)}]"
        if result.truncated or len(said) > _LONGEST_OUTPUT:
            said = f"{said[:_LONGEST_OUTPUT]}\n[cut]"
        return Outcome(said or "[nothing was printed]", paid)

    @tool
    def test(self, code: str) -> Outcome:
        """Run the visible tests on a program.

        Args:
            code: the whole program.
        """
        if too_long := self._too_long(code):
            return too_long
        if not self.problem.visible:
            return Outcome("This task shows no tests.", invalid=True)
        paid = self._diagnosed(code)
        report = self._grade(code, hidden=False)
        self.best = max(self.best, report.progress)
        self.tests_made += 1
        return Outcome(self._told(report), paid)

    @tool
    def submit(self, code: str) -> Outcome:
        """Hand in a program, which ends the episode.

        Args:
            code: the whole program.
        """
        if too_long := self._too_long(code):
            return too_long
        paid = self._diagnosed(code)
        report = self._grade(code, hidden=True)
        score = 1.0 if report.solved else self.partial_credit * report.progress
        if self.reward == "step":
            self._rewards["outcome"] = score
        said = "Right." if report.solved else "Wrong."
        return Outcome(said, paid + score, success=report.solved, score=score)

    def _too_long(self, code: str) -> Outcome | None:
        if len(code) <= _LONGEST_PROGRAM:
            return None
        return Outcome(
            f"The program has {len(code):,} characters; at most {_LONGEST_PROGRAM:,} are taken.", invalid=True
        )

    def _grade(self, code: str, *, hidden: bool) -> Report:
        program = f"{expressions.HEAD}({code})\n" if self.style == "short" else code
        tests = self.problem.hidden if hidden else self.problem.visible
        return grade(
            self._sessions, self.problem, program, tests, language=self.language, seconds=self.seconds
        )

    def _diagnosed(self, code: str) -> float:
        """What the analyser's errors pay: those that went minus those that came."""
        if self._analyser is None or self.reward != "step":
            return 0.0
        errors = self._analyser(code)
        before, self.errors = self.errors, errors
        paid = 0.0 if before is None else self.diagnostics_reward * (before - errors)
        if paid:
            self._rewards["diagnostics"] = paid
        return paid

    def _told(self, report: Report) -> str:
        total = len(report.outcomes)
        if self.style == "short":
            wrong = next((o for o in report.outcomes if not o.passed), None)
            said = f"{report.passed} of {total}"
            if wrong is None:
                return said
            if report.trouble:
                return f"{said} error"
            return f"{said} {wrong.test}={wrong.got.removeprefix('returned ')} not {wrong.expected}"
        if report.trouble:
            return f"No test passes: the program {report.trouble}."
        lines = [f"{report.passed} of {total} visible tests pass."]
        failed = [o for o in report.outcomes if not o.passed]
        lines += [
            f"{o.test}: {o.got}" + (f", expected {o.expected}" if o.expected else "")
            for o in failed[:_FAILED_SHOWN]
        ]
        if len(failed) > _FAILED_SHOWN:
            lines.append(f"and {len(failed) - _FAILED_SHOWN} more")
        return "\n".join(lines)

    def potential(self) -> float:
        """`test_reward` x the progress of the best program tested so far."""
        return self.test_reward * self.best

    def state_key(self) -> Hashable:
        """A hash of the task and of what the rewards of later turns depend on."""
        assert self.task is not None
        known = repr((self.task.id, self.best, self.errors))
        return hashlib.blake2b(known.encode(), digest_size=8).hexdigest()

    def expert(self) -> Call | None:
        """Test the reference solution, or a mutant before it, and submit it."""
        problem = self.problem
        if self.language != "python" or not problem.reference:
            return None
        left = self.max_turns - self._turn
        if self.best < 1.0 and left > 1 and problem.visible:
            if self.demonstrate == "repair" and problem.mutants and not self.tests_made and left > 2:
                return Call("test", {"code": problem.mutants[0]})
            if self.tests_made < 2:
                return Call("test", {"code": problem.reference})
        return Call("submit", {"code": problem.reference})

    def sample_action(self, rng: np.random.Generator) -> str:
        """A random tool with a random expression, a mutant, or the head of a function."""
        names = tuple(self.tools)
        name = names[int(rng.integers(len(names)))]
        draw = Random(int(rng.integers(2**32)))
        if self.style == "short":
            code = expressions.random_expression(draw)
        elif self.task is None:
            code = f"print({draw.randrange(100)})"
        else:
            empty = f"{self.problem.signature or 'def f():'}\n    return {draw.randrange(10)}\n"
            code = draw.choice([*self.problem.mutants, empty, f"print({draw.randrange(100)})"])
        return self.write(Call(name, {"code": code}))
