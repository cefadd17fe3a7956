"""Agents from their configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .. import agents
from ..agents.reward_model import Scorer
from ..configs.schema import (
    AgentSection,
    BestOfNAgentSection,
    ExpertAgentSection,
    LocalAgentSection,
    MajorityAgentSection,
    OpenAIAgentSection,
    RandomAgentSection,
    ReflectAgentSection,
    RewardModelAgentSection,
    ScorerSection,
    SelfCertaintyAgentSection,
    TreeAgentSection,
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
        UsageError: there is no such model, run, or key; or an agent that is to give several answers gives one alone.
    """
    return _build(config, slots, loading, temperature=0.0, certainties=False)


def _build(
    config: AgentSection, slots: int, loading: Callable[[], None], *, temperature: float, certainties: bool
) -> Agent:
    """`temperature` is that of a local model which names none; `certainties` is what the agent around it reads."""

    def inner(section: AgentSection, several: int, sure: bool = False) -> Agent:
        if getattr(section, "temperature", None) == 0 and several > 1:
            raise UsageError(
                f"agent.inner.temperature=0 gives the same answer {several} times; leave it out, or choose one above 0"
            )
        return _build(section, slots * several, loading, temperature=1.0, certainties=sure)

    match config:
        case RandomAgentSection():
            return agents.RandomAgent()
        case ExpertAgentSection():
            return agents.ExpertAgent(config.noise)
        case LocalAgentSection():
            loading()
            return _local(config, slots, temperature, certainties)
        case OpenAIAgentSection():
            if certainties and not config.top_log_probs:
                raise UsageError(
                    "agent=self_certainty reads log-probabilities: set agent.inner.top_log_probs=20"
                )
            return agents.OpenAIAgent(
                **config.model_dump(exclude={"name", "api_key_env"}), key=_key(config), concurrency=slots
            )
        case BestOfNAgentSection():
            return agents.BestOfN(inner(config.inner, config.n), config.n)
        case MajorityAgentSection():
            return agents.Majority(inner(config.inner, config.n), config.n)
        case SelfCertaintyAgentSection():
            return agents.SelfCertainty(inner(config.inner, config.n, True), config.n, level=config.level)
        case RewardModelAgentSection():
            player, scorer = inner(config.inner, config.n), _scorer(config.scorer, loading)
            return agents.RewardModel(player, scorer, config.n, level=config.level)
        case ReflectAgentSection():
            return agents.Reflect(
                inner(config.inner, 1),
                config.n,
                note=config.note,
                reflector=None if config.reflector is None else inner(config.reflector, 1),
                memory=config.memory,
            )
        case TreeAgentSection():
            return agents.TreeSearch(
                inner(config.inner, config.branch),
                guide=config.guide if config.scorer is None else _scorer(config.scorer, loading),  # type: ignore[arg-type]
                **config.model_dump(exclude={"name", "inner", "guide", "scorer"}),
            )


def _scorer(config: ScorerSection, loading: Callable[[], None]) -> Scorer:
    loading()
    from .scorer import build_scorer

    return build_scorer(config)


def _local(config: LocalAgentSection, slots: int, temperature: float, certainties: bool) -> Agent:
    import torch

    path = _last_checkpoint(Path(config.path))
    try:
        return agents.LocalAgent.from_pretrained(
            str(path or config.path),
            temperature=temperature if config.temperature is None else config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
            template_kwargs=config.template_kwargs,
            certainties=certainties,
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
