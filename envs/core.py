"""`TurnEnv`: a multi-turn environment for language-model agents, as a `gymnasium.Env` over text.

An environment is one class with `start` and at least one `@tool`; everything else has a default:

    class HigherLower(TurnEnv):
        high: int = 100                                   # a parameter: annotated, with a default

        def start(self, task, rng) -> str: ...            # the first observation

        @tool
        def guess(self, number: int) -> Outcome: ...      # what the agent can do
"""

from __future__ import annotations

import builtins
import copy
import hashlib
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_origin

import gymnasium
import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from .agent import AgentLike, Message
from .errors import InvalidEnvironment, InvalidParameter, InvalidSeed, ResetNeeded, UsageError, nearest
from .formats import answer_of, tool_format, writable
from .pictures import Picture
from .spaces import MessageSpace
from .tasks import ProceduralTasks, Task, TaskSet
from .tools import Call, ToolSpec
from .trajectory import Trajectory

if TYPE_CHECKING:
    from .rollout import RolloutResult

NAMESPACE = "turnwise"
"""Gymnasium's registry holds our environments as `turnwise/<id>`."""


class Outcome(NamedTuple):
    """What a tool answers.

    Attributes:
        observation: what the agent sees next.
        reward: step reward for this turn.
        success: None while the episode goes on; True or False ends it.
        score: in [0, 1], how well the task was done; only read when the episode ends. None: 1 for success, else 0.
        invalid: the call was well formed but illegal here; it is counted and costs its turn.
    """

    observation: str
    reward: float = 0.0
    success: bool | None = None
    score: float | None = None
    invalid: bool = False


class TurnEnv(gymnasium.Env[str, str]):
    """A multi-turn environment.

    Observation and action are texts; an action is the whole assistant message, in which the tool format finds one
    call. `reset` and `step` keep Gymnasium's contract. What a model writes never raises: a malformed action costs its
    turn, and the observation says what was wrong and what is expected.

    Rewards: each tool returns a step reward. Where `potential` is defined, its change is added to every step reward
    (potential-based shaping with discount 1: Ng, Harada, Russell, 1999). The end of an episode has potential 0, also
    where the turns ran out, so the shaping of an episode sums to `-potential(first state)` whatever the agent does.

    Info of `reset` and `step`: `state_key` (of the state that the returned observation belongs to, that is before the
    next turn), `task`, `turn`; of `step` also `tool` (what the action named, or None), `call` (the validated `Call`, or
    None), `invalid`, `shaping` (the potential-based part of the reward); of the last step also `score` in [0, 1] and
    `success`.

    Parameters are annotated class attributes with a default; `make(id, **parameters)` sets them per instance. Every
    environment has these:

    Attributes:
        format: how the agent writes calls: hermes, bracket, react or python.
        split: where `reset(seed=)` takes tasks from.
        max_turns: after so many turns the episode is truncated.
        reward: `step` pays what the tools return; `outcome` pays the score in the last turn and nothing else.
        system_prompt: whether the agent is told the rules and the format; False for models trained on the environment.

    Raises:
        InvalidParameter: an unknown parameter, or a value of the wrong type or range.
    """

    format: str = "hermes"
    split: str = "train"
    max_turns: int = 20
    reward: Literal["step", "outcome"] = "step"
    system_prompt: bool = True

    rules: ClassVar[str] = ""
    """What the agent is told in the system prompt, beside the tools."""
    blocking: ClassVar[bool] = False
    """True where `start` or a tool waits (network, processes): the episode loop then runs it in a thread."""
    tools: ClassVar[Mapping[str, ToolSpec]] = {}
    """The tools by name, collected from the `@tool` methods."""
    stages: ClassVar[Mapping[str, Callable[[Trajectory], bool | None]]] = {}
    """What an episode goes through on the way to its end, by name, for evaluations: whether a trajectory got there, or None
    where it had no need to. In the order in which they are reached."""
    _declared: ClassVar[dict[str, TypeAdapter[Any]]]
    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  # Gymnasium declares it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = [
            n for c in reversed(cls.__mro__) for n, m in vars(c).items() if hasattr(m, "_is_turnwise_tool")
        ]
        for name in names:
            if hasattr(TurnEnv, name):
                raise InvalidEnvironment(
                    f"{cls.__name__}: a tool cannot be called {name!r}, every environment has that; take another name"
                )
        cls.tools = {n: ToolSpec(n, getattr(cls, n)) for n in dict.fromkeys(names)}

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        if not self.tools:
            raise InvalidEnvironment(
                f"{type(self).__name__} has no tool; mark at least one method with @tool"
            )
        self.render_mode = render_mode
        declared = _parameters(type(self))
        own = declared.keys() - _parameters(TurnEnv).keys()
        for name, value in parameters.items():
            if name in declared:
                value = _validated(type(self), name, value)
            elif own or hasattr(type(self), name):
                known = sorted(declared)
                plain = name in vars(type(self)) and not callable(getattr(type(self), name))
                hint = (
                    " A class attribute is a parameter where it is annotated, as in `size: int = 4`."
                    if plain
                    else ""
                )
                raise InvalidParameter(
                    f"{type(self).__name__} has no parameter {name!r}.{nearest(name, known)} It has {', '.join(known)}."
                    f"{hint}"
                )
            setattr(self, name, value)
        if self.max_turns < 1:
            raise InvalidParameter(f"max_turns must be at least 1, got {self.max_turns}")
        self.parameters: dict[str, Any] = parameters
        self._format = tool_format(self.format)
        self.tasks: TaskSet = self.load_tasks()
        self.tasks.size(self.split)
        self._shaped = type(self).potential is not TurnEnv.potential and self.reward == "step"
        self.observation_space = MessageSpace()
        self.action_space = MessageSpace(sampler=self.sample_action)
        self.task: Task | None = None
        self._turn = 0
        self._running = False
        self._observation = ""
        self._potential = 0.0
        episode = {"task", "_turn", "_running", "_observation", "_potential"}
        self._static = (self.__dict__.keys() | {"spec", "_static"}) - episode

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.action_space = MessageSpace(sampler=self.sample_action)

    # What an environment writes.

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Begin an episode and return the first observation.

        Args:
            task: what the episode is about; generate what belongs to the task from `task.seed`.
            rng: seeded by task and seed; for everything else that is random, also later as `self.np_random`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define start(self, task, rng) -> str")

    def load_tasks(self) -> TaskSet:
        """The tasks; by default a task is a seed."""
        return ProceduralTasks()

    def state_key(self) -> Hashable:
        """Key of the true state, equal exactly where the state is; by default a hash of the last observation."""
        return hashlib.blake2b(self._observation.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def potential(self) -> float:
        """Potential of the current state for reward shaping; overriding it switches the shaping on."""
        return 0.0

    def score(self) -> float:
        """Score in [0, 1] of an episode that is cut off now."""
        return 0.0

    def reference(self) -> list[str] | None:
        """The accepted answers of the current task as texts, None where there are none. Never shown to the agent."""
        return (
            list(self.task.reference) if self.task is not None and self.task.reference is not None else None
        )

    def expert(self) -> Call | None:
        """The call that a policy which solves the task makes in the current state; None where there is none."""
        return None

    @classmethod
    def picture(cls, observation: str, state_key: str) -> Picture | None:
        """What the viewer draws of a recorded state, None for nothing.

        Args:
            observation: of a turn, or the final one.
            state_key: as a text; empty behind the last turn.
        """
        return None

    def render(self) -> str:
        """The last observation as text."""
        return self._observation

    # Gymnasium's interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: integer of at least 0. Task and randomness follow from it alone: task `seed` modulo the size of the
                split. None draws the next seed from the environment's own generator.
            options: `{"task": id}` picks the task, `{"split": name}` the split; the seed then only drives what is
                random within the episode.

        Returns:
            First observation and info.

        Raises:
            InvalidSeed: the seed is not an integer of at least 0.
            UnknownTask, UnknownSplit: see the names.
            UsageError: an unknown option.
        """
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        elif isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InvalidSeed(seed)
        seed = int(seed)
        options = options or {}
        if not options.keys() <= {"task", "split"}:
            raise UsageError(f"options may hold 'task' and 'split', got {sorted(map(str, options))}")
        if options.get("task") is not None:
            task = self.tasks.find(options["task"])
        else:
            split = options.get("split") or self.split
            task = self.tasks.get(split, seed % self.tasks.size(split))
        self.task = task
        self._np_random = np.random.Generator(np.random.PCG64([task.seed, seed]))
        self._np_random_seed = seed
        self._running = False
        observation = self.start(task, self._np_random)
        if not isinstance(observation, str):
            raise InvalidEnvironment(
                f"{type(self).__name__}.start must return a str, got {observation!r:.80}"
            )
        self._observation = observation = writable(observation)
        self._running = True
        self._turn = 0
        if self._shaped:
            self._potential = self.potential()
        return observation, {"state_key": self.state_key(), "task": task.id, "turn": 0}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn.

        Args:
            action: the assistant message.

        Returns:
            Observation, reward, terminated, truncated (never both), info.

        Raises:
            ResetNeeded: before the first `reset`, or after the episode ended.
            EnvFailure: what stands behind the environment broke.
        """
        if not self._running:
            raise self._reset_needed()
        if not isinstance(action, str):
            raise UsageError(f"an action is the text of the assistant message, got {type(action).__name__}")
        tools = self.tools
        parsed = self._format.parse(answer_of(writable(action)), tools)
        tool, call, why = None, None, None
        if isinstance(parsed, Call):
            tool = parsed.tool
            spec = tools.get(tool)
            if spec is None:
                why = f"there is no tool {tool[:80]!r}.{nearest(tool[:80], tools)} Tools: {', '.join(tools)}"
            else:
                checked = spec.validate(parsed.arguments)
                if isinstance(checked, str):
                    why = checked
                else:
                    call = Call(tool, checked)
        else:
            why = parsed.why
        if why is not None:
            outcome = Outcome(
                f"Invalid action: {why}. Expected, for example: {self._format.expected(tools)}", invalid=True
            )
        else:
            answer = spec.function(self, **call.arguments)  # type: ignore[union-attr]
            outcome = Outcome(answer) if isinstance(answer, str) else answer
            if not isinstance(outcome, Outcome) or not isinstance(outcome.observation, str):
                raise InvalidEnvironment(
                    f"tool {tool!r} of {type(self).__name__} must return an Outcome or a str, got {answer!r:.80}"
                )

        self._turn += 1
        observation, reward, success, score, invalid = outcome
        self._observation = observation = writable(observation)
        terminated = success is not None
        truncated = not terminated and self._turn >= self.max_turns
        shaping = 0.0
        if self._shaped:
            before = self._potential
            self._potential = 0.0 if terminated or truncated else self.potential()
            shaping = self._potential - before
            reward += shaping
        info: dict[str, Any] = {
            "state_key": self.state_key(),
            "task": self.task.id,  # type: ignore[union-attr]
            "turn": self._turn,
            "tool": tool,
            "call": call,
            "invalid": bool(invalid),
            "shaping": shaping,
        }
        if terminated or truncated:
            self._running = False
            if score is None:
                score = float(bool(success)) if terminated else self.score()
            info["score"] = float(score)
            info["success"] = bool(success)
            if self.reward == "outcome":
                reward = float(score)
        elif self.reward == "outcome":
            reward = 0.0
        return observation, float(reward), terminated, truncated, info

    def _reset_needed(self) -> ResetNeeded:
        when = "after the episode ended" if self.task is not None else "before the first reset"
        return ResetNeeded(f"step was called {when}; call reset first")

    def cut_off(self) -> tuple[float, float]:
        """End an episode from outside before `max_turns`; return its score and what its last turn is still paid."""
        self._running = False
        score = float(self.score())
        return score, score if self.reward == "outcome" else -self._potential if self._shaped else 0.0

    # What everybody gets.

    def messages(self, observation: str) -> list[Message]:
        """The chat messages that open an episode: system prompt (unless switched off) and first observation."""
        opening: list[Message] = []
        if self.system_prompt:
            parts = [self.rules, self._format.instructions(self.tools), f"You have {self.max_turns} turns."]
            opening.append({"role": "system", "content": "\n\n".join(p for p in parts if p)})
        return [*opening, {"role": "user", "content": observation}]

    @property
    def role(self) -> str:
        """The agent's seat in a game of several; empty in an environment for one."""
        return ""

    @property
    def observation_role(self) -> str:
        """Chat role of the observations that answer a call."""
        return self._format.observation_role

    def write(self, call: Call) -> str:
        """A call as the text of an action, in this environment's format."""
        return self._format.render(call, self.tools)

    def sample_action(self, rng: np.random.Generator) -> str:
        """A random well-formed action: a tool, and arguments that its schema admits."""
        names = tuple(self.tools)
        name = names[int(rng.integers(len(names)))]
        return self.write(Call(name, self.tools[name].sample(rng)))

    def snapshot(self) -> dict[str, Any]:
        """An exact copy of the episode, for `restore`; it stays good however often it is restored."""
        return copy.deepcopy({k: v for k, v in self.__dict__.items() if k not in self._static})

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a snapshot of this environment or of a clone: the same actions then give the same episode."""
        for name in self.__dict__.keys() - self._static - state.keys():
            del self.__dict__[name]
        self.__dict__.update(copy.deepcopy(state))

    def clone(self) -> TurnEnv:
        """A fresh environment with the same parameters, not yet reset."""
        env = type(self)(render_mode=self.render_mode, **self.parameters)
        env.spec = self.spec
        return env

    def at_step(self, step: int) -> TurnEnv:
        """The environment for the rollouts of a training step: itself, unless something about it follows a schedule."""
        return self

    @property
    def env_id(self) -> str:
        """Id in the registry without the namespace, or the class name."""
        return self.spec.id.removeprefix(f"{NAMESPACE}/") if self.spec is not None else type(self).__name__

    def rollout(
        self,
        agent: AgentLike,
        episodes: int = 64,
        *,
        seed: int = 0,
        split: str | None = None,
        tasks: Sequence[str] | None = None,
        group_size: int = 1,
        max_turns: int | None = None,
        concurrency: int = 64,
        timeout: float | None = None,
        out: str | None = None,
    ) -> RolloutResult:
        """Play episodes with an agent; see `turnwise.rollout`, which this calls with this environment."""
        from .rollout import rollout  # the loop is built on this module

        return rollout(
            self,
            agent,
            episodes,
            seed=seed,
            split=split,
            tasks=tasks,
            group_size=group_size,
            max_turns=max_turns,
            concurrency=concurrency,
            timeout=timeout,
            out=out,
        )


def _parameters(cls: type[TurnEnv]) -> dict[str, TypeAdapter[Any]]:
    """The parameters of a class: annotated public attributes with a default that are not ClassVars."""
    if "_declared" not in vars(cls):
        declared = {}
        for owner in reversed(cls.__mro__):
            if issubclass(owner, TurnEnv):  # gymnasium.Env annotates names that exist for type checkers alone
                declared.update(_own_parameters(owner, cls))
        cls._declared = declared
    return cls._declared


def _own_parameters(owner: type, cls: type[TurnEnv]) -> dict[str, TypeAdapter[Any]]:
    found: dict[str, TypeAdapter[Any]] = {}
    module = vars(sys.modules.get(owner.__module__, builtins))
    for name, hint in vars(owner).get("__annotations__", {}).items():
        if name.startswith("_") or not hasattr(cls, name):
            continue
        try:
            hint = eval(hint, module) if isinstance(hint, str) else hint
            if get_origin(hint) is not ClassVar and hint is not ClassVar:
                found[name] = TypeAdapter(hint)
        except (NameError, PydanticSchemaGenerationError) as error:
            raise InvalidEnvironment(
                f"{owner.__name__}: the annotation of the parameter {name!r} cannot be used ({error}); make its type "
                "one that pydantic knows, at the top of the module, or declare what is no parameter as a ClassVar"
            ) from error
    return found


def _validated(cls: type[TurnEnv], name: str, value: Any) -> Any:
    if name == "format":
        tool_format(value)
    try:
        return _parameters(cls)[name].validate_python(value)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise InvalidParameter(
            f"{cls.__name__}: {name}={value!r} is wrong: {message[0].lower()}{message[1:]}"
        ) from None
