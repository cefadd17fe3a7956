"""The seam of the rewards: `RewardSource`, what it is given, and the registry of sources.

A source gives every turn of a list of trajectories one number. It is registered under a name, and the keyword
parameters of its class, with their annotations, are its configuration:

    @register_reward("length")
    class Length(RewardSource):
        \"\"\"Minus the number of tokens of the turn.\"\"\"

        needs = frozenset({"tokens"})

        def __init__(self, *, scale: Weight = 1.0) -> None:
            super().__init__()
            self.scale = scale

        async def score(self, trajectories, models):
            return [[-self.scale * len(turn.action_ids) for turn in t.turns] for t in trajectories]

A source knows nothing of weights, normalisation or schedules: `pipeline.py` does that, the same for all.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from ...envs import Agent, Trajectory, TurnEnv
from ...envs.errors import UsageError
from ..batch import TurnBatch
from ..parameters import Parameter, parameters_of

if TYPE_CHECKING:
    from ...agents.chat import ChatTokenizer

Need: TypeAlias = Literal["reference", "tokens", "policy", "snapshots", "second_model", "judge"]
Learns: TypeAlias = Literal["no", "before", "after"]
Norm: TypeAlias = Literal["none", "group", "group_separate", "batch", "running", "renorm"]
Scores: TypeAlias = list[list[float | None]]
"""What a source gives: one list per trajectory, with one number or None per turn."""
Source = TypeVar("Source", bound="type[RewardSource]")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """What a source may use; `dataclasses.replace(models, step=...)` makes the one of the next step.

    Args:
        env: the environment of the run, not reset. Sources clone it.
        policy: the Hugging Face model that played the trajectories, with the weights it played with, in eval mode. None
            where the weights are elsewhere.
        tokenizer: of the policy.
        chat: turns messages into the tokens of the policy.
        agent: the agent that played the trajectories; it samples from `policy`.
        device: where the policy is.
        token_budget: padded tokens per forward: memory against speed, never the result.
        max_context: most tokens of a conversation.
        temperature: of the rollout; log-probabilities are of the logits divided by it.
        lr: learning rate of the policy, for second models that should keep pace with it.
        step: of the training, from 1.
        steps: of the whole training.
        seed: of the run; a source draws from (seed, its name, step, ...).
    """

    env: TurnEnv
    policy: Any = None
    tokenizer: Any = None
    chat: ChatTokenizer | None = None
    agent: Agent | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    token_budget: int = 16384
    max_context: int | None = None
    temperature: float = 1.0
    lr: float = 1e-3
    step: int = 1
    steps: int = 1
    seed: int = 0


class RewardSource(ABC):
    """Gives every turn one number, and may learn from the trajectories.

    A subclass calls `super().__init__()`, takes keyword-only parameters with defaults, and is registered with
    `register_reward`.

    Attributes:
        name: in the configuration, in metrics and in trajectories; set by `register_reward`.
        needs: what the run must offer: "reference" (accepted answers), "tokens" (token ids and log-probs of the agent),
            "policy" (the model, in this process), "snapshots" (copies of the environment), "second_model", "judge". The
            pipeline checks the first four before the first rollout; `check` is for the rest. May depend on parameters.
        learns: whether `update` is called, and whether before or after the scores of a step are taken. May depend on
            parameters.
        outcome: True for what the environment pays; every other source is a process reward, which schedules fade out.
        pays_tokens: True where `token_rewards` has numbers for single tokens too, for credit per token.
        norm: how the numbers are normalised unless the configuration says otherwise.
        counters: what happened since the last step, by name; the pipeline reports it as `reward/NAME/COUNTER` and empties it.
    """

    name: ClassVar[str] = ""
    needs: frozenset[Need] = frozenset()
    learns: Learns = "no"
    outcome: ClassVar[bool] = False
    pays_tokens: ClassVar[bool] = False
    norm: ClassVar[Norm] = "none"

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._warned: set[str] = set()

    def check(self, models: Models) -> None:  # noqa: B027  (most sources have nothing to check)
        """Refuse a run that cannot work, before its first rollout.

        Raises:
            UsageError: what is missing, and what to do.
        """

    @abstractmethod
    async def score(self, trajectories: Sequence[Trajectory], models: Models) -> Scores:
        """One number per turn of each trajectory, as ragged lists; nothing is written into the trajectories.

        None stands for a number that is not to be had (a checkpoint beyond the context, a judge that is down): it is
        paid as 0 and enters no statistic. Trajectories that failed are never passed.
        """

    def token_rewards(self) -> Tensor:
        """[R, L] for the trajectories that were scored last, in the rows of `collate`; 0 where there is no number.

        Only called where `pays_tokens`, after `score`.
        """
        raise NotImplementedError(f"reward source {self.name!r} pays no tokens")

    def update(
        self, trajectories: Sequence[Trajectory], batch: TurnBatch, models: Models
    ) -> dict[str, float]:
        """Learn from the trajectories of a step and return metrics. Only called where `learns` is not "no".

        Args:
            trajectories: those that did not fail.
            batch: the same ones, row i is trajectory i, with the environment's rewards and the token side.
            models: of the rollout, before the policy's update.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, as tensors and plain Python values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (most sources have no state)
        """Go on from a checkpoint."""

    def close(self) -> None:  # noqa: B027  (most sources hold nothing)
        """Free what the source holds (connections, models); called once, at the end of the run."""

    def warn_once(self, kind: str, message: str) -> None:
        """Log a warning, once for each kind in the life of the source; count what happens in `counters`."""
        if kind not in self._warned:
            self._warned.add(kind)
            _LOG.warning("reward source %s: %s", self.name, message)


class RewardError(UsageError):
    """A reward is configured in a way that cannot work; the subclasses say how."""


class UnknownReward(RewardError, LookupError):
    """No reward source is registered under this name."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        near = get_close_matches(str(name), known, n=3, cutoff=0.4)
        others = sorted(set(known) - set(near))
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"no reward source is registered as {name!r}.{hint} Known: {', '.join([*near, *others])}."
        )


class UnknownRewardParameter(RewardError, TypeError):
    """A reward source has no parameter of this name."""

    def __init__(self, source: str, name: str, known: Collection[str]) -> None:
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        others = [other for other in known if other not in near]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join([*near, *others]) or "none"
        super().__init__(f"reward source {source!r} has no parameter {name!r}.{hint} It takes: {listed}.")


class BadRewardParameter(RewardError):
    """A parameter of a reward has a value outside what it allows."""

    def __init__(self, source: str, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} of reward source {source!r} is {value!r}; allowed: {allowed}.")


class MissingNeed(RewardError):
    """A reward source needs something that the run does not offer."""

    def __init__(self, source: str, need: str, how: str) -> None:
        super().__init__(f"reward source {source!r} needs {need}: {how}")


class RewardExists(RewardError):
    """Two reward sources would share a name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a reward source is already registered as {name!r}; register yours under another name."
        )


@dataclass(frozen=True)
class RewardSpec:
    """What is known of a registered source.

    Args:
        name: the name in the configuration.
        factory: its class.
        params: its parameters by name.
    """

    name: str
    factory: type[RewardSource]
    params: Mapping[str, Parameter]

    @property
    def doc(self) -> str:
        """The docstring of the source."""
        return inspect.getdoc(self.factory) or ""


_SOURCES: dict[str, RewardSpec] = {}


def register_reward(name: str) -> Callable[[Source], Source]:
    """Register a `RewardSource` class under a name.

    The parameters of its `__init__` are keyword-only, each with a default and one of the annotations float, int, bool,
    str, Literal[...], or Annotated[float, Interval(low, high)], possibly `| None`.

    Raises:
        RewardExists: the name is taken.
        TypeError: a parameter cannot be read as configuration.
    """

    def register(source: Source) -> Source:
        if name in _SOURCES:
            raise RewardExists(name)
        # A source without an __init__ of its own inherits one without parameters.
        source.name = name
        _SOURCES[name] = RewardSpec(name, source, MappingProxyType(parameters_of(source.__init__)))
        return source

    return register


def reward_sources() -> tuple[str, ...]:
    """The names of the registered sources, sorted."""
    return tuple(sorted(_SOURCES))


def spec(name: str) -> RewardSpec:
    """What is known of a source. Raises `UnknownReward`, naming the nearest names first."""
    if name not in _SOURCES:
        raise UnknownReward(name, _SOURCES)
    return _SOURCES[name]


def check_parameters(
    owner: str, params: Mapping[str, Any], known: Mapping[str, Parameter], also: Collection[str] = ()
) -> None:
    """Check values against the parameters they are for.

    Args:
        owner: the reward source, for messages.
        params: what is configured.
        known: the parameters there are.
        also: further names, for the message about an unknown one.

    Raises:
        UnknownRewardParameter, BadRewardParameter: the configuration is wrong.
    """
    for key, value in params.items():
        if key not in known:
            raise UnknownRewardParameter(owner, key, [*known, *also])
        if not known[key].allows(value):
            raise BadRewardParameter(owner, key, value, known[key].allowed)


def build(name: str, **params: Any) -> RewardSource:
    """Make a source from its configuration.

    Raises:
        UnknownReward, UnknownRewardParameter, BadRewardParameter: there is no such source or parameter, or not with
            this value.
    """
    source = spec(name)
    check_parameters(name, params, source.params)
    return source.factory(**params)
