"""`HumanAgent`: a person at the terminal (`turnwise play`)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from ..envs.agent import Conversation, Reply
from ..envs.core import TurnEnv
from ..envs.formats import FORMATS
from ..envs.tools import Call


class HumanAgent:
    """Shows each observation, says what is expected, and reads a line.

    The line is a call in the environment's format or as `tool[argument]`, the bare argument where there is one tool
    with one parameter, or the bare name of a tool without any. What is none of these goes to the environment as it is.
    Play one episode at a time: the line that is waited for holds up every other.

    Args:
        console: where to print; None is standard output.

    Raises:
        KeyboardInterrupt: from `act`, on Ctrl-C and Ctrl-D.
    """

    name = "human"

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    async def act(self, conversation: Conversation) -> Reply:
        """What the person typed, as an action in the environment's format."""
        env, console = conversation.env, self.console
        turn = sum(message["role"] == "assistant" for message in conversation) + 1
        if turn == 1 and conversation[0]["role"] == "system":
            console.print(conversation[0]["content"], markup=False, style="dim")
        title = f"turn {turn} of {env.max_turns}"
        console.print(
            Panel(escape(conversation[-1]["content"]), title=title, title_align="left", expand=False)
        )
        console.print(f"[dim]{escape(expected(env))}[/]")
        line = ""
        with _interruptible():
            while not line.strip():
                try:
                    line = console.input("[bold]> [/]")
                except EOFError:
                    raise KeyboardInterrupt from None
        return Reply(as_action(line, env))


def expected(env: TurnEnv) -> str:
    """What a person may type, in one line."""
    parts = []
    for spec in env.tools.values():
        choices = [spec.schema["properties"][n].get("enum") for n in spec.parameters]
        shown = [" or ".join(map(str, c)) if c else n for n, c in zip(spec.parameters, choices, strict=True)]
        if len(env.tools) == 1 and len(shown) == 1:
            return f"{spec.name}: {shown[0]}"
        parts.append(f"{spec.name}[{', '.join(shown)}]" if shown else spec.name)
    return "   ".join(parts)


def as_action(line: str, env: TurnEnv) -> str:
    """What a person typed, written in the environment's format."""
    line = line.strip()
    tools = env.tools
    for reader in (FORMATS[env.format], FORMATS["bracket"]):
        call = reader.parse(line, tools)
        if isinstance(call, Call) and call.tool in tools:
            return line if reader.name == env.format else _write(call, env)
    if line in tools and not tools[line].parameters:
        return env.write(Call(line, {}))
    if len(tools) == 1:
        (spec,) = tools.values()
        if len(spec.parameters) == 1:
            return _write(Call(spec.name, {spec.parameters[0]: line}), env)
    return line


def _write(call: Call, env: TurnEnv) -> str:
    """Typed arguments where they are valid, so that a number is written as one; the environment judges the others."""
    checked = env.tools[call.tool].validate(call.arguments)
    return env.write(call if isinstance(checked, str) else Call(call.tool, checked))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the reading of a line: asyncio would only note it and read on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
