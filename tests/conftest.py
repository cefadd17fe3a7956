"""What the tests of all layers share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import settings

import turnwise as tw

settings.register_profile("turnwise", deadline=None, max_examples=40)
settings.load_profile("turnwise")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so would what they start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a test registers is gone after it: other tests count what is registered."""
    tables: list[dict[Any, Any]] = [gymnasium.registry]
    for module, table in (("credit", "_SCHEMES"), ("rewards", "_SOURCES")):
        if (loaded := sys.modules.get(f"turnwise.trainers.{module}.registry")) is not None:
            tables.append(getattr(loaded, table))
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of published data sets: TURNWISE_REAL_DATA, or `shared/data` beside the project."""
    folder = Path(os.environ.get("TURNWISE_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        why = f"no published data at {folder}; set TURNWISE_REAL_DATA to the folder that holds puzzles/"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return folder


@pytest.fixture(scope="session")
def boxoban(real_data: Path) -> Path:
    """200 levels of Boxoban's hard set, as published."""
    return real_data / "puzzles" / "boxoban_hard_200.txt"


@pytest.fixture
def register() -> Callable[..., str]:
    """Register an environment for one test: `register(cls, **parameters)` gives its id."""

    def add(cls: type[tw.TurnEnv], env_id: str = "", **parameters: Any) -> str:
        env_id = env_id or f"{cls.__name__}-v0"
        tw.register(env_id, cls, **parameters)
        return env_id

    return add
