"""`Wrapper`: an environment around another one, which it makes by id."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from ..agent import Message
from ..core import TurnEnv, _parameters, _validated
from ..formats import writable
from ..registry import env_class, make
from ..tasks import TaskSet
from ..tools import Call
from ..trajectory import Trajectory


class Taken(NamedTuple):
    """A turn that the inner environment took.

    Attributes:
        action: the assistant message.
        before: state key before it.
        reference: what `reference_call` gave before it.
        terminated: whether the rules ended the episode with it.
        info: of the inner environment's step.
    """

    action: str
    before: Hashable
    reference: Call | None
    terminated: bool
    info: dict[str, Any]


class Wrapper(TurnEnv):
    """The base of the wrappers: an environment that plays another one and changes what it pays.

    Tasks, tools, observations, state keys and the expert are the inner environment's, and so is everything that is random:
    the same seed gives the inner environment's own episode. The parameters that every environment has (`format`, `split`,
    `max_turns`, `reward`, `system_prompt`) are passed on where they are given here, and are the inner environment's where
    they are not. What a wrapper pays beside the outcome is a step reward, so `reward="outcome"` leaves it out.

    A subclass overrides `paid` for step rewards, `outcome` for the score, and `begin` for what it remembers of an episode,
    in attributes that are first set there.

    Attributes:
        inner: id of the environment inside.
        inner_parameters: what it is made with.
        training_step: where schedules inside stand; `at_step` sets it.
    """

    inner: str = "HigherLower-v1"
    inner_parameters: Mapping[str, Any] = MappingProxyType({})
    training_step: Annotated[int, Field(ge=0)] = 0

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        given = {
            n: _validated(type(self), n, v) for n, v in parameters.items() if n in _parameters(type(self))
        }
        everywhere = _parameters(TurnEnv).keys()
        self.env = self.make_inner(given, {n: v for n, v in given.items() if n in everywhere})
        self.tools = self.env.tools  # type: ignore[misc]
        self.rules = self.env.rules  # type: ignore[misc]
        self.blocking = self.env.blocking  # type: ignore[misc]
        for name in everywhere:
            setattr(self, name, getattr(self.env, name))
        super().__init__(
            render_mode=render_mode, **{n: v for n, v in parameters.items() if n not in everywhere}
        )
        self.parameters = parameters

    def __getstate__(self) -> dict[str, Any]:
        return {n: v for n, v in self.__dict__.items() if n != "tools"}  # validators cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.tools = self.env.tools  # type: ignore[misc]

    # What a wrapper writes.

    def make_inner(self, given: dict[str, Any], everywhere: dict[str, Any]) -> TurnEnv:
        """Make the environment inside.

        Args:
            given: the parameters of this wrapper, as far as they were given.
            everywhere: those of them that every environment has.
        """
        inner = given.get("inner", self.inner)
        parameters = {**given.get("inner_parameters", self.inner_parameters), **everywhere}
        if "training_step" in given and issubclass(env_class(inner), Wrapper):
            parameters["training_step"] = given["training_step"]
        return make(inner, **parameters)

    def begin(self) -> None:
        """Forget the last episode."""

    def paid(self, turn: Taken) -> float:
        """What a turn is paid beside what the inner environment pays, asked in every turn."""
        return 0.0

    def reference_call(self) -> Call | None:
        """What a turn is compared with, asked before the inner environment takes it."""
        return None

    def outcome(self, score: float, success: bool) -> tuple[float, bool]:
        """Score and success of an episode that ends here, from the inner environment's."""
        return score, success

    def scheduled(self) -> bool:
        """Whether something here or inside follows a schedule over training steps."""
        return isinstance(self.env, Wrapper) and self.env.scheduled()

    def at_step(self, step: int) -> TurnEnv:
        """A fresh environment with its schedules at a training step; this one where it has none."""
        if not self.scheduled():
            return self
        env = type(self)(render_mode=self.render_mode, **{**self.parameters, "training_step": step})
        env.spec = self.spec
        return env

    # The inner environment's.

    @property
    def stages(self) -> Mapping[str, Callable[[Trajectory], bool | None]]:  # type: ignore[override]
        """The inner environment's."""
        return self.env.stages

    def load_tasks(self) -> TaskSet:
        """The inner environment's tasks."""
        return self.env.tasks

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode of the inner environment; see `TurnEnv.reset`."""
        self._running = False
        observation, info = self.env.reset(seed=seed, options=options)
        self.task = self.env.task
        self._np_random_seed = self.env._np_random_seed
        self.before = info["state_key"]
        self.begin()
        self._running = True
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn of the inner environment and pay it anew; see `TurnEnv.step`.

        The info of the last step also holds `inner_score` and `inner_success`, before this wrapper's `outcome`.
        """
        if not self._running:
            raise self._reset_needed()
        reference = self.reference_call()
        observation, reward, terminated, truncated, info = self.env.step(action)
        extra = self.paid(Taken(writable(action), self.before, reference, terminated, info))
        self.before = info["state_key"]
        if self.reward == "step":
            reward += extra
        if terminated or truncated:
            self._running = False
            was = info["inner_score"] = info["score"]
            info["inner_success"] = info["success"]
            info["score"], info["success"] = self.outcome(was, info["success"])
            reward = info["score"] if self.reward == "outcome" else reward + info["score"] - was
        return observation, reward, terminated, truncated, info

    def cut_off(self) -> tuple[float, float]:
        """End an episode from outside; see `TurnEnv.cut_off`."""
        self._running = False
        was, owed = self.env.cut_off()
        score = self.outcome(was, False)[0]
        return score, score if self.reward == "outcome" else owed + score - was

    def score(self) -> float:
        """Score in [0, 1] of an episode that is cut off now."""
        return self.outcome(self.env.score(), False)[0]

    def state_key(self) -> Hashable:
        """The inner environment's; what a wrapper remembers does not part states."""
        return self.env.state_key()

    def potential(self) -> float:
        """The inner environment's."""
        return self.env.potential()

    def reference(self) -> list[str] | None:
        """The inner environment's."""
        return self.env.reference()

    def expert(self) -> Call | None:
        """The inner environment's."""
        return self.env.expert()

    def messages(self, observation: str) -> list[Message]:
        """The inner environment's."""
        return self.env.messages(observation)

    @property
    def role(self) -> str:
        """The inner environment's."""
        return self.env.role

    def render(self) -> str:
        """The inner environment's."""
        return self.env.render()

    def snapshot(self) -> dict[str, Any]:
        """An exact copy of the episode, the inner environment's part included."""
        return {"wrapper": super().snapshot(), "inner": self.env.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a snapshot of this environment or of a clone."""
        super().restore(state["wrapper"])
        self.env.restore(state["inner"])

    def close(self) -> None:
        """Close the inner environment."""
        self.env.close()

    # Whoever sets the generator, as the episode loop does where it branches, means the one that the episode draws from.
    @property
    def _np_random(self) -> Any:
        return self.env._np_random

    @_np_random.setter
    def _np_random(self, value: Any) -> None:
        self.env._np_random = value
