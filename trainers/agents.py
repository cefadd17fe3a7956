"""Agents from their configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .. import agents
from ..configs.schema import (
    AgentSection,
    ExpertAgentSection,
    LocalAgentSection,
    OpenAIAgentSection,
    RandomAgentSection,
)
from ..envs import Agent
from ..envs.errors import UsageError


def build_agent(config: AgentSection, *, slots: int, loading: Callable[[], None] = lambda: None) -> Agent:
    """The agent that a configuration describes.

    Args:
        config: of the agent.
        slots: conversations at a time.
        loading: called before a model is loaded.

    Raises:
        UsageError: there is no such model, or no such key.
    """
    match config:
        case RandomAgentSection():
            return agents.RandomAgent()
        case ExpertAgentSection():
            return agents.ExpertAgent(config.noise)
        case LocalAgentSection():
            loading()
            return _local(config, slots)
        case OpenAIAgentSection():
            return agents.OpenAIAgent(
                **config.model_dump(exclude={"name", "api_key_env"}), key=_key(config), concurrency=slots
            )


def _local(config: LocalAgentSection, slots: int) -> Agent:
    import torch

    path = _last_checkpoint(Path(config.path))
    try:
        return agents.LocalAgent.from_pretrained(
            str(path or config.path),
            temperature=config.temperature or 0.0,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
            template_kwargs=config.template_kwargs,
            slots=slots,
            device="cuda" if torch.cuda.is_available() else None,
        )
    except OSError as error:
        raise UsageError(
            f"agent.path={config.path!r} is neither a run folder, nor a folder with a model, nor the name of one:"
            f" {str(error).splitlines()[0]}"
        ) from error


def _last_checkpoint(run: Path) -> Path | None:
    """The last whole checkpoint of a run folder; None for what is no run folder."""
    from .local.checkpoint import latest

    folder = run / "checkpoints"
    if not folder.is_dir():
        return None
    last = latest(folder)
    if last is None:
        raise UsageError(f"{folder} holds no whole checkpoint; train longer, or name another run")
    return last


def _key(config: OpenAIAgentSection) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env)
    if not key:
        raise UsageError(
            f"agent.api_key_env={config.api_key_env}: that environment variable holds no key; set it"
        )
    return key
