"""Errors that an analyser counts, and what they pay."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.code.diagnostics import analyser
from turnwise.envs.errors import InvalidParameter

CLEAN = "def f(n: int) -> int:\n    return n + 1\n"
SYNTAX = "def f(:\n    pass\nx = (\n"
NAMES = "import math\n\n\ndef f(n: int) -> str:\n    math.no_such_name\n    return n + undefined\n"


def needs(module: str) -> None:
    if find_spec(module) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{module} is not installed")
        pytest.skip(f"{module} is not installed: pip install 'turnwise[code]'")


def test_jedi_counts_every_error_of_syntax_and_nothing_else() -> None:
    needs("jedi")
    count = analyser("jedi")
    assert count(CLEAN) == count(NAMES) == 0
    assert count(SYNTAX) == 2


def test_pyright_counts_names_and_types_and_no_installed_package() -> None:
    needs("basedpyright")
    from turnwise.envs.code import pyright

    assert analyser("pyright")(CLEAN) == 0
    assert analyser("pyright")(NAMES) == 2
    assert analyser("pyright")(SYNTAX) > 1
    assert analyser("pyright")("import numpy\n") == 1  # installed here, and not everywhere
    pyright._servers[os.getpid()]._process.kill()
    pyright._servers[os.getpid()]._process.wait()
    assert analyser("pyright")(f"{CLEAN}\n# read by another server\n") == 0


def test_errors_that_go_are_paid_and_errors_that_come_cost_and_a_replay_pays_the_same() -> None:
    needs("jedi")
    try:
        env: Any = tw.make(
            "Code-v1", diagnostics="jedi", diagnostics_reward=0.1, test_reward=0.0, format="bracket"
        )
    except InvalidParameter as error:
        pytest.skip(str(error))
    programs = [SYNTAX, CLEAN, SYNTAX, "x = (\n"]
    paid = []
    for _ in range(2):
        env.reset(seed=0)
        steps = [env.step(env.write(tw.Call("run", {"code": code}))) for code in programs]
        paid.append([step[1] for step in steps])
        assert [step[4]["rewards"].get("diagnostics", 0.0) for step in steps] == paid[-1]
    assert paid[0] == paid[1] == [0.0, pytest.approx(0.2), pytest.approx(-0.2), pytest.approx(0.1)]
    env = tw.make("Code-v1", diagnostics="jedi", reward="outcome", format="bracket")
    env.reset(seed=0)
    assert [env.step(env.write(tw.Call("run", {"code": code})))[1] for code in programs] == [0.0] * 4
