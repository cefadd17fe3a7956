"""`check`: tests any environment against the contract, a user's own included.

Each check is a function of `CHECKS` that raises `Broken` with what is wrong and how to mend it; the conformance suite of
the tests runs the same functions over the whole registry.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from .core import NAMESPACE, TurnEnv
from .errors import InvalidEnvironment, InvalidSeed, ResetNeeded, UnknownTask, UsageError
from .formats import FORMATS
from .registry import env_class, make
from .rollout import rollout
from .tools import Call, ToolSpec
from .trajectory import Trajectory

_EPISODES = 4
_TURNS = 60
_EXPERT_TASKS = 20
_CHILD_SECONDS = 300


class Broken(Exception):
    """Raised by a check: what is wrong with the environment, and how to mend it."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes:
        name: of the check.
        status: `ok`; `note`: nothing is broken, but see the message; `failed`.
        message: what is wrong and how to mend it, or the note; empty where all is well.
    """

    name: str
    status: Literal["ok", "note", "failed"]
    message: str = ""


@dataclass
class CheckReport:
    """What `check` found; printing it gives a table.

    Attributes:
        env_id: id of the environment.
        results: one per check.
    """

    env_id: str
    results: list[CheckResult]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.problems

    @property
    def problems(self) -> dict[str, str]:
        """The messages of the checks that failed, by name."""
        return {r.name: r.message for r in self.results if r.status == "failed"}

    def raise_if_failed(self) -> None:
        """Do nothing where all checks passed.

        Raises:
            InvalidEnvironment: at least one failed; the message is the table.
        """
        if not self.ok:
            raise InvalidEnvironment(str(self))

    def __str__(self) -> str:
        lines = []
        for r in self.results:
            said = textwrap.wrap(r.message, 110 - 24) or [""]
            lines.append(
                f"{r.status.upper() if r.status == 'failed' else r.status:<6}  {r.name:<14}  {said[0]}".rstrip()
            )
            lines += [f"{'':24}{line}" for line in said[1:]]
        failed = len(self.problems)
        verdict = (
            f"{failed} of {len(self.results)} checks failed"
            if failed
            else f"all {len(self.results)} checks passed"
        )
        return "\n".join([*lines, f"{self.env_id}: {verdict}"])


class Episode(NamedTuple):
    """A recorded episode: the same seed and actions must give the same record everywhere."""

    seed: int
    actions: list[str]
    record: list[str]


class Subject:
    """The environment under test.

    Args:
        env_id: a registered id.
        parameters: what it is made with.
    """

    def __init__(self, env_id: str, parameters: Mapping[str, Any]) -> None:
        self.env_id = env_id
        self.parameters = dict(parameters)
        self.cls = env_class(env_id)
        self.made_with = {**gymnasium.spec(f"{NAMESPACE}/{env_id}").kwargs, **self.parameters}

    def make(self, **overrides: Any) -> TurnEnv:
        """A fresh environment."""
        return make(self.env_id, **{**self.parameters, **overrides})

    @cached_property
    def episodes(self) -> list[Episode]:
        """Some episodes of random actions, among them the expert's where there is one."""
        env = self.make()
        episodes = []
        for seed in range(_EPISODES):
            rng = np.random.default_rng(seed)
            env.reset(seed=seed)
            actions: list[str] = []
            over = False
            while not over and len(actions) < _TURNS:
                call = env.expert() if seed and rng.random() < 0.7 else None
                actions.append(env.write(call) if call is not None else env.sample_action(rng))
                _, _, terminated, truncated, _ = env.step(actions[-1])
                over = terminated or truncated
            episodes.append(Episode(seed, actions, play_again(env, seed, actions)))
        return episodes


def play_again(env: TurnEnv, seed: int, actions: Sequence[str]) -> list[str]:
    """All that an episode shows, as texts."""
    return [repr(env.reset(seed=seed)), *_tail(env, actions)]


def _tail(env: TurnEnv, actions: Sequence[str]) -> list[str]:
    return [repr(env.step(action)) for action in actions]


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise Broken(message)


def _same(expected: Sequence[str], found: Sequence[str], message: str) -> None:
    for turn, (before, after) in enumerate(zip(expected, found, strict=True)):
        if before != after:
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
            part = slice(max(0, at - 30), at + 30)
            raise Broken(f"{message} Turn {turn} gave first {before[part]!r}, then {after[part]!r}.")


def _raises(kind: type[Exception], function: Callable[[], object], what: str) -> None:
    try:
        function()
    except kind:
        return
    except Exception as error:
        raise Broken(f"{what} raised {type(error).__name__} ({error}) instead of {kind.__name__}.") from error
    raise Broken(f"{what} did not raise {kind.__name__}; leave reset and step to TurnEnv.")


# The checks, in the order in which they run. Each returns a note, or None.


def _docs(subject: Subject) -> str | None:
    """The class docstring is the contract, and each parameter of a tool is described."""
    doc = subject.cls.__doc__ or ""
    missing = [word for word in ("Observation", "Tools", "Reward", "Terminated") if f"{word}:" not in doc]
    _expect(
        not missing,
        f"the docstring of {subject.cls.__name__} does not say {', '.join(f'`{m}:`' for m in missing)}; it is what users "
        "know of the environment.",
    )
    for spec in subject.cls.tools.values():
        bare = [n for n in spec.parameters if not spec.schema["properties"][n].get("description")]
        _expect(
            not bare,
            f"tool {spec.name!r} does not describe {', '.join(bare)}; add them to an `Args:` section of its docstring, "
            "which the agent reads.",
        )
    return None


def _gymnasium(subject: Subject) -> str | None:
    """Gymnasium's own checker passes on `gymnasium.make`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # By its registration, since Gymnasium takes what stands before a colon in a name for a module to import.
        spec = gymnasium.spec(f"{NAMESPACE}/{subject.env_id}")
        env = gymnasium.make(spec, **subject.parameters)
        try:
            check_env(env.unwrapped)
        except Exception as error:
            raise Broken(f"gymnasium.utils.env_checker.check_env says: {error}") from error
        finally:
            env.close()
    return "; ".join(sorted({str(w.message) for w in caught})) or None


def _determinism(subject: Subject) -> str | None:
    """Same seed and actions, same bytes: in one environment and in a fresh one."""
    env = subject.make()
    for episode in subject.episodes:
        for other in (env, subject.make()):
            _same(
                episode.record,
                play_again(other, episode.seed, episode.actions),
                f"seed {episode.seed} with the same actions gave another episode. Draw only from the rng that start gets "
                "and from self.np_random, and set in start all that an episode changes.",
            )
    return None


def _threads(subject: Subject) -> str | None:
    """Environments in several threads do not touch each other."""
    with ThreadPoolExecutor(_EPISODES) as pool:
        envs = [subject.make() for _ in range(2 * _EPISODES)]
        episodes = subject.episodes * 2
        found = list(pool.map(lambda env, e: play_again(env, e.seed, e.actions), envs, episodes))
    for episode, record in zip(episodes, found, strict=True):
        _same(
            episode.record,
            record,
            f"seed {episode.seed} gave another episode while others ran in threads. Keep what an episode changes on self, "
            "not on the class or the module.",
        )
    return None


def _processes(subject: Subject) -> str | None:
    """Another process, in which texts have other hashes, gives the same bytes."""
    cls = subject.cls
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        return f"not checked in a second process: it cannot import {cls.__qualname__}; put the class into a module"
    path = [os.path.abspath(p) for p in sys.path]
    try:
        job = pickle.dumps(
            (cls.__module__, inspect.getfile(cls), cls.__qualname__, subject.made_with, subject.episodes)
        )
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        return f"not checked in a second process: the parameters cannot be sent to it ({error})"
    code = f"import pickle, sys; sys.path[:], job = pickle.load(sys.stdin.buffer); from {__name__} import child; child(job)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((path, job)),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        timeout=_CHILD_SECONDS,
    )
    if found.returncode:
        said = found.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Broken(f"the environment does not run in a second process: {said}")
    for episode, record in zip(subject.episodes, pickle.loads(found.stdout), strict=True):
        _same(
            episode.record,
            record,
            f"seed {episode.seed} gave another episode in another process. Sort sets before you use them, use no hash() "
            "of texts, no clock and no random numbers but the rng's.",
        )
    return None


def child(job: bytes) -> None:
    """What the second process does: play the episodes and write the records to standard output."""
    output = os.dup(1)
    os.dup2(2, 1)  # what the environment prints must not get between
    module, file, name, parameters, episodes = pickle.loads(job)
    try:
        found = importlib.import_module(module)
    except ImportError:
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None and spec.loader is not None
        sys.modules[module] = found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    cls: Any = found
    for part in name.split("."):
        cls = getattr(cls, part)
    env = cls(**parameters)
    with os.fdopen(output, "wb") as file:
        pickle.dump([play_again(env, e.seed, e.actions) for e in episodes], file)


def _seeds(subject: Subject) -> str | None:
    """Different seeds give different episodes."""
    env = subject.make()
    if env.tasks.size(env.split) == 1:
        return f"not checked: the split {env.split!r} holds one task"
    first, *others = ((env.reset(seed=seed)[0], repr(env.state_key())) for seed in range(20))
    _expect(
        any(other != first for other in others),
        "the seeds 0 to 19 begin with the same observation and the same state key; generate the task from task.seed, or "
        "from rng.",
    )
    return None


def _splits(subject: Subject) -> str | None:
    """No task is in two splits, and each is found by its id."""
    tasks = subject.make().tasks
    contents: dict[str, set[str]] = {}
    ids: dict[str, str] = {}
    for split, size in tasks.splits.items():
        _expect(size > 0, f"the split {split!r} is empty; leave it out.")
        step = max(1, size // 1000)
        contents[split] = set()
        for index in range(0, size, step):
            task = tasks.get(split, index)
            _expect(
                task.split == split, f"task {task.id!r} of split {split!r} says that it is of {task.split!r}."
            )
            _expect(task.id not in ids, f"the id {task.id!r} is given twice; ids are unique over all splits.")
            ids[task.id] = split
            _expect(
                tasks.find(task.id) == task,
                f"find({task.id!r}) gives another task than get({split!r}, {index}).",
            )
            contents[split].add(
                repr((task.seed, task.prompt, sorted(task.data.items(), key=repr), task.reference))
            )
    for one, other in combinations(contents, 2):
        shared = contents[one] & contents[other]
        _expect(
            not shared,
            f"the splits {one!r} and {other!r} share {len(shared)} tasks, for example {min(shared, default='')[:200]}.",
        )
    if len(contents) < 2:
        return f"there is one split only, {next(iter(contents))!r}"
    return _first_states(subject)


def _first_states(subject: Subject) -> str | None:
    env = subject.make()
    found: dict[str, set[str]] = {}
    for split, size in env.tasks.splits.items():
        for index in range(min(size, 200)):
            observation, info = env.reset(seed=index, options={"task": env.tasks.get(split, index).id})
            found.setdefault(split, set()).add(repr((observation, info["state_key"])))
    shared = {
        f"{a} and {b}": len(found[a] & found[b]) for a, b in combinations(found, 2) if found[a] & found[b]
    }
    if not shared:
        return None
    said = ", ".join(f"{number} in {splits}" for splits, number in shared.items())
    return (
        f"among the first 200 tasks of each split some begin in the same state ({said}); see tasks.split_of"
    )


def _reset(subject: Subject) -> str | None:
    """`reset` takes seeds and tasks, and refuses what is neither."""
    env = subject.make()
    for split in env.tasks.splits:
        task = env.tasks.get(split, env.tasks.size(split) - 1)
        _, info = env.reset(seed=1, options={"task": task.id})
        _expect(
            info["task"] == task.id and env.task == task,
            f"reset(options={{'task': {task.id!r}}}) began task {info['task']!r}; leave reset to TurnEnv.",
        )
        env.reset(seed=1, options={"split": split})
        _expect(
            env.task is not None and env.task.split == split,
            f"options={{'split': {split!r}}} was not followed.",
        )
    _raises(UnknownTask, lambda: env.reset(options={"task": "no such task"}), "reset with an unknown task")
    for seed in (-1, 1.5, "1", True):
        _raises(InvalidSeed, lambda seed=seed: env.reset(seed=seed), f"reset(seed={seed!r})")  # type: ignore[misc]
    _raises(UsageError, lambda: env.reset(options={"no_such_option": 1}), "reset with an unknown option")
    return None


def _order(subject: Subject) -> str | None:
    """`step` needs a running episode."""
    env = subject.make(max_turns=1)
    _raises(ResetNeeded, lambda: env.step("x"), "step before the first reset")
    env.reset(seed=0)
    env.step("x")
    _raises(ResetNeeded, lambda: env.step("x"), "step after the end of the episode")
    return None


def _infos(subject: Subject) -> str | None:
    """Every step gives what it should, and the last one score and success."""
    env = subject.make()
    for episode in subject.episodes:
        env.reset(seed=episode.seed)
        for turn, action in enumerate(episode.actions, 1):
            observation, reward, terminated, truncated, info = env.step(action)
            where = f"seed {episode.seed}, turn {turn}"
            _expect(
                isinstance(observation, str) and observation in env.observation_space,
                f"{where}: the observation has {len(observation)} characters and the observation space allows "
                f"{getattr(env.observation_space, 'max_length', 0)}; shorten it, or set a larger MessageSpace in __init__.",
            )
            _expect(
                type(reward) is float and math.isfinite(reward),
                f"{where}: the reward is {reward!r}; it must be a finite float. Look at the Outcome and at potential().",
            )
            _expect(not (terminated and truncated), f"{where}: the step is terminated and truncated at once.")
            _expect(
                info["turn"] == turn and type(info["invalid"]) is bool,
                f"{where}: info is wrong: {info!r:.200}.",
            )
            over = terminated or truncated
            _expect(
                ("score" in info) is over and ("success" in info) is over,
                f"{where}: `score` and `success` stand in the info of the last step and of no other.",
            )
            if over:
                _expect(
                    type(info["score"]) is float and 0.0 <= info["score"] <= 1.0,
                    f"{where}: the score is {info['score']!r}; it must be in [0, 1]. Set Outcome(score=) or score() so.",
                )
                _expect(
                    type(info["success"]) is bool, f"{where}: success is {info['success']!r}, no truth value."
                )
    return None


def _malformed(subject: Subject) -> str | None:
    """What a model writes never raises, and what is no call is marked invalid."""
    for name in FORMATS:
        env = subject.make(format=name, max_turns=10)
        takes_code = name == "python" and any(spec.parameters == ("code",) for spec in env.tools.values())
        texts = [
            (text, True)
            for text in ("", " ", "\0", "no call here", "\ud800", "🙂", "word " * 20_000, "w" * 100_000)
        ]
        texts += [(text, False) for text in _BAD_CALLS]
        unknown = {"hermes": _BAD_CALLS[0], "bracket": "no_such_tool[1]", "react": "Action: no_such_tool[1]"}
        texts.append((unknown.get(name, "```python\nno_such_tool(1)\n```"), not takes_code))
        texts += [(env.write(call), False) for spec in env.tools.values() for call in _extreme(spec)]
        if name == "hermes":
            texts += [(env.write(call), True) for spec in env.tools.values() for call in _wrong(spec)]
        for text, must_be_invalid in texts:
            env.reset(seed=0)
            try:
                observation, _, _, _, info = env.step(text)
            except Exception as error:
                raise Broken(
                    f"in the format {name} the action {text[:100]!r} raised {type(error).__name__}: {error}. What a model "
                    "writes is data: answer with Outcome(..., invalid=True)."
                ) from error
            _expect(
                info["invalid"] or not must_be_invalid,
                f"in the format {name} the action {text[:100]!r} is no call, yet info['invalid'] is not set.",
            )
            _expect(
                info["turn"] == 1 and observation.encode("utf-8"),
                f"in the format {name} the action {text[:100]!r} did not cost a turn, or was not answered.",
            )
    return None


_BAD_CALLS = (
    '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>',
    "<tool_call>",
    "</tool_call><tool_call>",
    "<tool_call>[]</tool_call>",
    '<tool_call>{"name": 5}</tool_call>',
    '<tool_call>{"name": "a", "arguments": 5}</tool_call>',
    '<tool_call>{"name": "a", "arguments": {"a": ' + "[" * 50_000 + "</tool_call>",
    '<tool_call>{"name": "a", "arguments": {"a": ' + "[" * 400 + "]" * 400 + "}}</tool_call>",
    '<tool_call>{"name": "\\ud800", "arguments": {"\\udc00": 1e999}}</tool_call>',
    '<tool_call>{"name": "a", "arguments": {"a": ' + "9" * 5_000 + "}}</tool_call>",
    "a[",
    "]a[",
    "Action: a[" + "[" * 50_000,
    "```python\n" + "(" * 50_000 + "\n```",
    "```python\n" + "-" * 50_000 + "1\n```",
    "```python\na(**b)\n```",
    "`" * 50_000,
)


def _extreme(spec: ToolSpec) -> list[Call]:
    """Calls with values that the schema allows and nobody expects."""
    values: tuple[Any, ...] = (0, -1, 10**30, 1e308, "", " ", "x" * 100_000, "🙂\n\t\0]", True, None, [], {})
    usual = spec.sample(np.random.default_rng(0))
    return [Call(spec.name, {**usual, n: v}) for n in spec.parameters for v in values if spec.accepts(n, v)]


def _wrong(spec: ToolSpec) -> list[Call]:
    """Calls that the schema does not allow."""
    usual = spec.sample(np.random.default_rng(0))
    values: tuple[Any, ...] = ({"a": []}, [[None]], 0.5, None)
    calls = [Call(spec.name, {**usual, "no_such_parameter": 1})]
    for n in spec.parameters:
        calls += [Call(spec.name, {**usual, n: v}) for v in values if not spec.accepts(n, v)]
        if n not in spec.defaults:
            calls.append(Call(spec.name, {m: v for m, v in usual.items() if m != n}))
    return calls


def _truncation(subject: Subject) -> str | None:
    """An episode of actions that do nothing is truncated after `max_turns`."""
    env = subject.make(max_turns=3)
    env.reset(seed=0)
    ends = [env.step("")[2:4] for _ in range(3)]
    _expect(
        ends == [(False, False), (False, False), (False, True)],
        f"with max_turns=3 three invalid actions ended like this (terminated, truncated): {ends}; leave step to TurnEnv.",
    )
    return None


def _state_keys(subject: Subject) -> str | None:
    """The state key is a hashable value of the state, and asking for it changes nothing."""
    env = subject.make()
    for episode in subject.episodes:
        _, info = env.reset(seed=episode.seed)
        for action in [*episode.actions, None]:
            key = info["state_key"]
            try:
                hash(key)
            except TypeError as error:
                raise Broken(
                    f"the state key {key!r:.80} cannot be hashed ({error}); return a text or a tuple."
                ) from error
            _expect(
                env.state_key() == key == env.state_key(),
                "state_key() gives another key when it is asked again.",
            )
            _expect(
                " at 0x" not in repr(key), f"the state key {key!r:.80} holds an address; return plain values."
            )
            if action is not None:
                _, _, _, _, info = env.step(action)
    return None


def _snapshots(subject: Subject) -> str | None:
    """A snapshot from the middle of an episode gives the same future as often as it is restored, also in a clone."""
    env = subject.make()
    rng = np.random.default_rng(0)
    for episode in subject.episodes:
        for turn in sorted({0, len(episode.actions) // 2, len(episode.actions) - 1}):
            play_again(env, episode.seed, episode.actions[:turn])
            key = env.state_key()
            try:
                state = env.snapshot()
            except Exception as error:
                raise Broken(
                    f"the episode cannot be copied ({type(error).__name__}: {error}); keep it in values that can be "
                    "deep-copied, not in open files, connections or generators, or define snapshot and restore."
                ) from error
            clone = env.clone()
            for other in (env, clone, env, clone):
                other.restore(state)
                _same(
                    [repr(key), *episode.record[turn + 1 :]],
                    [repr(other.state_key()), *_tail(other, episode.actions[turn:])],
                    f"seed {episode.seed}: after restoring the snapshot of turn {turn} the same actions gave another "
                    "episode. Keep the whole state in attributes that can be deep-copied and are first set in start, "
                    "or define snapshot and restore.",
                )
                other.restore(state)
                other.step(other.sample_action(rng))  # a detour must not show in the next future
    return None


def _pickles(subject: Subject) -> str | None:
    """An environment can be sent to another process in the middle of an episode."""
    env = subject.make()
    episode = subject.episodes[0]
    turn = len(episode.actions) // 2
    play_again(env, episode.seed, episode.actions[:turn])
    if "<locals>" in subject.cls.__qualname__:
        return "not checked: a class inside a function cannot be pickled"
    try:
        sent = pickle.loads(pickle.dumps(env))
    except Exception as error:
        raise Broken(
            f"the environment cannot be pickled ({type(error).__name__}: {error}); define __getstate__ and __setstate__ "
            "that leave out connections and functions and make them again."
        ) from error
    _same(
        episode.record[turn + 1 :],
        _tail(sent, episode.actions[turn:]),
        "after pickling the episode goes on differently.",
    )
    return None


def _shaping(subject: Subject) -> str | None:
    """Potential-based rewards sum up to minus the first potential, however the episode ends."""
    if subject.cls.potential is TurnEnv.potential:
        return "no potential is defined, so no step reward is potential-based"
    env = subject.make(reward="step")
    for episode in subject.episodes:
        env.reset(seed=episode.seed)
        before = env.potential()
        paid, over = 0.0, False
        for action in episode.actions:
            _, _, terminated, truncated, info = env.step(action)
            paid += info["shaping"]
            over = terminated or truncated
        change = (0.0 if over else env.potential()) - before
        _expect(
            math.isclose(paid, change, abs_tol=1e-6),
            f"seed {episode.seed}: the shaping rewards sum to {paid}, the potential changed by {change}; potential() must "
            "depend on the state alone.",
        )
    return None


def _outcomes(subject: Subject) -> str | None:
    """`reward="outcome"` pays the score in the last turn and nothing else."""
    env = subject.make(reward="outcome")
    for episode in subject.episodes:
        env.reset(seed=episode.seed)
        for action in episode.actions:
            _, reward, _, _, info = env.step(action)
            _expect(
                reward == info.get("score", 0.0),
                f"seed {episode.seed}, turn {info['turn']}: reward='outcome' paid {reward}, the score is "
                f"{info.get('score')}; leave step to TurnEnv.",
            )
    return None


def _references(subject: Subject) -> str | None:
    """The reference does not stand in what the agent is told before it has done anything.

    A text that holds other tasks' answers too, such as a list of choices, gives nothing away.
    """
    env = subject.make()
    tasks: list[tuple[str, set[str]]] = []
    for seed in range(_EXPERT_TASKS):
        observation, _ = env.reset(seed=seed)
        answers = env.reference()
        if not answers:
            continue
        _expect(
            isinstance(answers, list) and all(isinstance(a, str) for a in answers),
            f"reference() gave {answers!r:.80}; it must be a list of texts, or None.",
        )
        said = " ".join([*(m["content"] for m in env.messages(observation)), env.step("")[0]])
        tasks.append((_words(said), {_words(a) for a in answers}))
    if not tasks:
        return "there is no reference"
    known = set().union(*(answers for _, answers in tasks)) - {"  "}
    shown = [
        answer
        for said, answers in tasks
        for answer in sorted(answers & known)
        if answer in said and not any(other in said for other in known - answers)
    ]
    _expect(
        2 * len(shown) <= len(tasks),
        f"the reference stands in what the agent is told at the start in {len(shown)} of {len(tasks)} tasks, for example "
        f"{shown[0].strip() if shown else ''!r:.80}; information gain would reward reading it there.",
    )
    return (
        f"the reference stands in what the agent is told in {len(shown)} of {len(tasks)} tasks"
        if shown
        else None
    )


def _words(text: str) -> str:
    return f" {' '.join(''.join(c if c.isalnum() else ' ' for c in text).lower().split())} "


def _experts(subject: Subject) -> str | None:
    """The expert solves the task, which proves that it can be solved."""
    env = subject.make()
    split = "test" if "test" in env.tasks.splits else env.split
    number = min(_EXPERT_TASKS, env.tasks.size(split))
    solved = gave_up = lucky = 0
    rng = np.random.default_rng(0)
    for index in range(number):
        task = {"task": env.tasks.get(split, index).id}
        over = False
        env.reset(seed=index, options=task)
        while not over:
            _, _, terminated, truncated, info = env.step(env.sample_action(rng))
            over = terminated or truncated
        lucky += info["success"]
        _, info = env.reset(seed=index, options=task)
        over = False
        while not over:
            call = env.expert()
            _expect(env.state_key() == info["state_key"], "expert() changes the state; let it only look.")
            if call is None:
                gave_up += 1
                break
            _, _, terminated, truncated, info = env.step(env.write(call))
            _expect(not info["invalid"], f"the expert's call {call!r:.120} is invalid.")
            over = terminated or truncated
        solved += bool(over and info["success"])
    if gave_up == number:
        return "there is no expert: nothing proves that the tasks can be solved, and there is no warm start"
    said = f"the expert solves {solved} of {number} tasks of the split {split!r} in max_turns={env.max_turns}"
    _expect(
        solved == number or solved > lucky, f"{said}, random actions {lucky}; mend it, or allow more turns."
    )
    return said if solved < number else None


def _formats(subject: Subject) -> str | None:
    """In every format, what is written for a call is read back as that call."""
    for name, form in FORMATS.items():
        env = subject.make(format=name)
        rng = np.random.default_rng(0)
        for spec in env.tools.values():
            for _ in range(10):
                call = Call(spec.name, spec.sample(rng))
                text = env.write(call)
                found = form.parse(text, env.tools)
                _expect(
                    isinstance(found, Call)
                    and found.tool == call.tool
                    and spec.validate(found.arguments) == spec.validate(call.arguments),
                    f"in the format {name} the call {call!r:.120} is written {text!r:.120} and read back as "
                    f"{found!r:.120}.",
                )
    return None


def _rollouts(subject: Subject) -> str | None:
    """The episode loop plays it, and the trajectories can be written and read."""
    env = subject.make()
    rng = np.random.default_rng(0)
    result = rollout(env, lambda _: env.sample_action(rng), 4, seed=1)
    for t in result.trajectories:
        _expect(t.status != "failed", f"an episode failed twice: {t.error}")
        line = t.to_json()
        _expect(
            Trajectory.from_json(line).to_json() == line,
            "a trajectory changes when it is written and read again.",
        )
    if result.env_seconds > 0.05 and not env.blocking:
        return (
            f"a turn takes the environment {result.env_seconds:.2f} s; where it waits for something, set `blocking = True`, "
            "so that episodes run side by side"
        )
    return None


CHECKS: dict[str, Callable[[Subject], str | None]] = {
    "docs": _docs,
    "gymnasium": _gymnasium,
    "reset": _reset,
    "order": _order,
    "infos": _infos,
    "malformed": _malformed,
    "truncation": _truncation,
    "determinism": _determinism,
    "threads": _threads,
    "processes": _processes,
    "seeds": _seeds,
    "splits": _splits,
    "state_key": _state_keys,
    "snapshot": _snapshots,
    "pickle": _pickles,
    "shaping": _shaping,
    "outcome": _outcomes,
    "reference": _references,
    "expert": _experts,
    "formats": _formats,
    "rollout": _rollouts,
}
"""The checks by name, in the order in which they run."""


def check(env_id: str, **parameters: Any) -> CheckReport:
    """Test an environment against the contract.

    It plays a few dozen episodes, some of them in a second process.

    Args:
        env_id: a registered id, a user's own or one of ours.
        parameters: what the environment is made with.

    Returns:
        A report, which prints as a table.

    Raises:
        UnknownEnv: no environment is registered under the id.
        InvalidParameter: the environment does not take these parameters.
    """
    subject = Subject(env_id, parameters)
    subject.make().close()
    results = []
    for name, function in CHECKS.items():
        try:
            note = function(subject)
            results.append(CheckResult(name, "note" if note else "ok", note or ""))
        except Broken as broken:
            results.append(CheckResult(name, "failed", str(broken)))
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}, line {frame.lineno}"
            results.append(CheckResult(name, "failed", f"raised {type(error).__name__}: {error} ({where})"))
    return CheckReport(env_id, results)
