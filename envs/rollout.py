"""The episode loop: many episodes at once, none of which can hold up or lose another.

`play` takes jobs (which task, which seed) and yields trajectories as they end; `rollout` makes the jobs, waits and
returns a `RolloutResult`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import inspect
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import NormalDist
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic_core import to_jsonable_python

from .agent import AgentLike, Conversation, Reply
from .core import TurnEnv
from .errors import ContextFull, UsageError
from .formats import writable
from .trajectory import Trajectory, Turn, write_trajectories

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")

SEEDS_PER_PANEL = 10_000
"""`rollout(seed=s)` plays the environment seeds from `s * SEEDS_PER_PANEL` on, so that panels do not overlap."""


@dataclass(frozen=True)
class Branch:
    """A point in the middle of a played episode, from which others can go on.

    Attributes:
        state: of the environment, by `snapshot`.
        turns: those before the point.
        observation: what the agent sees at the point.
        state_key: of the state at the point.
    """

    state: dict[str, Any]
    turns: Sequence[Turn]
    observation: str
    state_key: Hashable


class Job(NamedTuple):
    """One episode to play.

    Attributes:
        seed: the environment's.
        task: id, or None for the task that follows from the seed.
        split: None for the environment's own.
        group: number of the group of episodes with the same task and seed.
        sample: number within the group; with the seed it fixes what the agent draws.
        branch: where the episode goes on, of an episode with the same task and seed; None for its beginning. The
            trajectory then starts with the turns of the branch, and what is random in the environment from there on is
            drawn anew, from the agent's seed.
    """

    seed: int
    task: str | None = None
    split: str | None = None
    group: int = 0
    sample: int = 0
    branch: Branch | None = None


def agent_seed(*parts: object) -> int:
    """A seed in [0, 2**63) from any values, the same in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


async def play(
    env: TurnEnv,
    agent: AgentLike,
    jobs: Sequence[Job],
    *,
    seed: int = 0,
    max_turns: int | None = None,
    concurrency: int = 64,
    timeout: float | None = None,
) -> AsyncGenerator[tuple[int, Trajectory], None]:
    """Play the jobs and yield (index of the job, trajectory) as episodes end, in the order in which they end.

    An episode in which environment or agent raises is played once more with a fresh environment, then recorded as
    `failed` with its typed error. A `UsageError` is the caller's mistake and ends everything at once, as Ctrl-C does.
    A `blocking` environment has a thread of its own, and one that hangs is left behind with its thread. Any other
    environment, and an agent that is a plain function, share one thread with all episodes and should be quick.

    Args:
        env: episodes are played in clones of it.
        agent: see `turnwise.Conversation` and `turnwise.Reply`.
        jobs: what to play.
        seed: mixed into the agent's seed of each episode.
        max_turns: truncates episodes earlier than the environment would.
        concurrency: episodes at a time, and clones of the environment.
        timeout: wall seconds for one episode, after which it has failed with `TimeoutError`. It takes effect where the
            episode waits: for an agent, or for an environment that is `blocking`.
    """
    for name, value in (("concurrency", concurrency), ("max_turns", max_turns)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if timeout is not None and not timeout > 0:
        raise UsageError(f"timeout is a number of seconds above 0, got {timeout}")
    act = as_act(agent)
    pending = iter(enumerate(jobs))
    done: asyncio.Queue[tuple[int, Trajectory] | BaseException] = asyncio.Queue()

    async def worker(seat: _Seat) -> None:
        for index, job in pending:
            for attempt in (1, 2):
                trajectory = await _episode(seat, agent, act, job, attempt, seed, max_turns, timeout)
                if trajectory.status != "failed":
                    break
                seat.leave()
            done.put_nowait((index, trajectory))
            # Episodes that never wait would all be played before anybody sees the first.
            await asyncio.sleep(0)

    async def guarded(seat: _Seat) -> None:
        try:
            await worker(seat)
        except BaseException as error:
            done.put_nowait(error)

    seats = [_Seat(env) for _ in range(min(concurrency, len(jobs)))]
    workers: list[asyncio.Task[None]] = []

    async def begin() -> None:
        # A few at each pass of the loop: the first reply is not to wait until the last environment is reset.
        for first in range(0, len(seats), _BEGIN_AT_ONCE):
            workers.extend(
                asyncio.create_task(guarded(seat)) for seat in seats[first : first + _BEGIN_AT_ONCE]
            )
            await asyncio.sleep(0)

    beginning = asyncio.create_task(begin())
    try:
        for _ in range(len(jobs)):
            item = await done.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        for task in (beginning, *workers):
            task.cancel()
        await asyncio.gather(beginning, *workers, return_exceptions=True)
        await asyncio.gather(*(seat.close() for seat in seats))


_BEGIN_AT_ONCE = 16
_CLOSING_SECONDS = 5.0


class _Thread:
    """A thread for an environment that waits. It is a daemon: a hung one must not keep the process alive."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="turnwise-env", daemon=True).start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, function = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except StopIteration as error:  # asyncio would wait for ever: its futures do not take this one
                future.set_exception(RuntimeError(f"StopIteration: {error}"))
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def submit(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._work.put((future, function))
        return future

    def stop(self) -> None:
        """End the thread behind what it still has to do."""
        self._work.put(None)


class _Seat:
    """Where episodes are played one after another: a clone of the environment, with a thread where it blocks."""

    def __init__(self, template: TurnEnv) -> None:
        self.template = template
        # The clone, or nothing. The thread that makes it puts it here, so that it is closed even if nobody waits any more.
        self._made: list[TurnEnv] = []
        self._thread: _Thread | None = None

    async def env(self) -> TurnEnv:
        """The clone, made anew after `leave`."""
        if not self._made:
            made = self._made
            await self.call(lambda: made.append(self.template.clone()))
        return self._made[0]

    async def call(self, function: Callable[[], T]) -> T:
        """Run what belongs to the environment."""
        if not self.template.blocking:
            return function()
        if self._thread is None:
            self._thread = _Thread()
        return await asyncio.wrap_future(self._thread.submit(function))

    def leave(self) -> Future[None] | None:
        """Give up the clone and its thread; it is closed as soon as what it is doing ends."""
        made, thread = self._made, self._thread
        self._made, self._thread = [], None
        if thread is None:
            _close(made)
            return None
        closed = thread.submit(partial(_close, made))
        thread.stop()
        return closed

    async def close(self) -> None:
        """Close the clone; one that hangs is not waited for longer than a few seconds."""
        closed = self.leave()
        if closed is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.wrap_future(closed), _CLOSING_SECONDS)


def _close(envs: Sequence[TurnEnv]) -> None:
    for env in envs:
        with contextlib.suppress(Exception):
            env.close()


def as_act(agent: AgentLike) -> Callable[[Conversation], Awaitable[Reply]]:
    """The agent as one coroutine function, whatever form it has.

    Raises:
        UsageError: it is no agent.
    """
    act: Any = getattr(agent, "act", agent)
    if not callable(act):
        raise UsageError(
            f"an agent has `async act(conversation) -> Reply` or is a function from messages to text; "
            f"got {type(agent).__name__}"
        )

    async def call(conversation: Conversation) -> Reply:
        answer = act(conversation)
        if inspect.isawaitable(answer):
            answer = await answer
        else:
            await asyncio.sleep(0)  # a function that takes its time gives way to the others after each turn
        if isinstance(answer, str):
            return Reply(answer)
        if not isinstance(answer, Reply):
            raise UsageError(
                f"agent {agent_name(agent)} must answer with a str or a Reply, got {type(answer).__name__}"
            )
        return answer

    return call


def agent_name(agent: AgentLike) -> str:
    """What trajectories call an agent: its `name`, its function name or its class name."""
    return str(getattr(agent, "name", None) or getattr(agent, "__name__", None) or type(agent).__name__)


def unplayed(
    env: TurnEnv, job: Job, agent: str, *, seed: int = 0, attempt: int = 1, role: str = ""
) -> Trajectory:
    """The trajectory of an episode that has not begun: failed, until something else comes of it.

    Args:
        env: what is played.
        job: what of it.
        agent: name of the agent.
        seed: mixed into the agent's seed.
        attempt: how often the episode was started.
        role: the agent's seat in a game of several, which has a seed of its own.
    """
    return Trajectory(
        env_id=env.env_id,
        env_kwargs=to_jsonable_python(env.parameters, fallback=repr),
        task_id=job.task or "",
        split=job.split or env.split,
        seed=job.seed,
        status="failed",
        score=0.0,
        success=False,
        turns=[],
        group=job.group,
        sample=job.sample,
        role=role,
        agent=agent,
        agent_seed=agent_seed(seed, job.seed, job.task, job.sample, *filter(None, [role])),
        attempts=attempt,
    )


async def _episode(
    seat: _Seat,
    agent: AgentLike,
    act: Callable[[Conversation], Awaitable[Reply]],
    job: Job,
    attempt: int,
    seed: int,
    max_turns: int | None,
    timeout: float | None,
) -> Trajectory:
    """Play one episode; every exception but the caller's mistakes becomes a failed trajectory."""
    template = seat.template
    trajectory = unplayed(template, job, agent_name(agent), seed=seed, attempt=attempt)
    conversation: Conversation | None = None

    async def run() -> None:
        nonlocal conversation
        env = await seat.env()
        if job.branch is None:
            options = {"task": job.task, "split": job.split}
            observation, info = await seat.call(partial(env.reset, seed=job.seed, options=options))
        else:
            await seat.call(partial(env.restore, job.branch.state))
            env.np_random = np.random.Generator(
                np.random.PCG64([trajectory.agent_seed, len(job.branch.turns)])
            )
            trajectory.turns += map(_copied, job.branch.turns)
            observation, info = job.branch.observation, {"state_key": job.branch.state_key}
        assert env.task is not None
        trajectory.task_id, trajectory.split = env.task.id, env.task.split
        trajectory.family, trajectory.difficulty = env.task.family, env.task.difficulty
        trajectory.role, trajectory.reference = env.role, env.reference()
        history = tuple(trajectory.turns)
        role = env.observation_role
        observations = [*(turn.observation for turn in history), observation]
        opening = env.messages(observations[0])
        trajectory.system = opening[0]["content"] if opening[0]["role"] == "system" else ""
        for turn, answer in zip(history, observations[1:], strict=True):
            opening += [{"role": "assistant", "content": turn.action}, {"role": role, "content": answer}]
        episode = f"{trajectory.id}:{job.group}.{job.sample}.{attempt}"
        conversation = Conversation(opening, id=episode, seed=trajectory.agent_seed, env=env, history=history)
        limit = max_turns or env.max_turns
        status: Literal["terminated", "truncated"] | None = None
        while status is None and len(trajectory.turns) < limit:
            began = time.perf_counter()
            try:
                reply = await act(conversation)
            except ContextFull:
                break
            acted = time.perf_counter()
            text = writable(reply.text)
            state_key = info["state_key"]
            seen = observation
            observation, reward, terminated, truncated, info = await seat.call(partial(env.step, text))
            answered = time.perf_counter()
            trajectory.turns.append(
                recorded(seen, reply, reward, state_key, info, (acted - began, answered - acted))
            )
            conversation.append({"role": "assistant", "content": text})
            conversation.append({"role": role, "content": observation})
            if terminated or truncated:
                status = "terminated" if terminated else "truncated"
                trajectory.score, trajectory.success = info["score"], info["success"]
        if status is None:  # cut off here, of which the environment knows nothing
            status = "truncated"
            trajectory.score, owed = await seat.call(env.cut_off)
            if trajectory.turns:
                trajectory.turns[-1].reward += owed
                trajectory.turns[-1].rewards["env"] = trajectory.turns[-1].reward
        trajectory.final_observation = observation
        trajectory.status = status

    try:
        try:
            async with asyncio.timeout(timeout) as clock:
                await run()
        finally:
            close = getattr(agent, "close", None)
            if conversation is not None and callable(close):
                close(conversation)
    except UsageError:
        raise
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        # A cancellation that nobody asked this task for comes from within the agent.
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        trajectory.status, trajectory.score, trajectory.success = "failed", 0.0, False
        said = f"the episode took longer than {timeout} s" if clock.expired() else writable(str(error))
        trajectory.error = f"{type(error).__name__}: {said}"[:2000]
    return trajectory


def recorded(
    seen: str,
    reply: Reply,
    reward: float,
    state_key: Hashable,
    info: dict[str, Any],
    seconds: tuple[float, float],
) -> Turn:
    """A turn as it stands in the trajectory.

    Args:
        seen: what the agent saw.
        reply: what it answered.
        reward: what `step` paid.
        state_key: of the state before the turn.
        info: of `step`.
        seconds: wall time of the agent and of the environment.
    """
    call = info["call"]
    return Turn(
        observation=seen,
        action=writable(reply.text),
        tool=info["tool"],
        arguments=None if call is None else to_jsonable_python(call.arguments, fallback=repr),
        reward=reward,
        rewards={"env": reward},
        state_key=state_key if isinstance(state_key, str) else repr(state_key),
        invalid=info["invalid"],
        agent_seconds=seconds[0],
        env_seconds=seconds[1],
        prompt_ids=list(reply.prompt_ids),
        action_ids=list(reply.action_ids),
        action_log_probs=list(reply.action_log_probs),
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        cached_tokens=reply.cached_tokens,
    )


def _copied(turn: Turn) -> Turn:
    """A turn that can be paid otherwise than the one it is a copy of; long fields are shared."""
    turn = copy.copy(turn)
    turn.rewards = dict(turn.rewards)
    return turn


def wilson(successes: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson, 1927); (0, 1) without data.

    The counts may be fractions, where they stand for an effective number of independent episodes.
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * ((p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass
class RolloutResult:
    """What episodes came to. Failed ones are counted apart and enter no other figure.

    Attributes:
        trajectories: in the order of the jobs.
        seconds: wall time of the whole.
    """

    trajectories: list[Trajectory]
    seconds: float

    @property
    def played(self) -> list[Trajectory]:
        """The trajectories that did not fail."""
        return [t for t in self.trajectories if t.status != "failed"]

    @property
    def episodes(self) -> int:
        """Number of episodes, failed ones included."""
        return len(self.trajectories)

    @property
    def success_rate(self) -> float:
        """Share of played episodes that succeeded; NaN without any."""
        return _mean([t.success for t in self.played])

    @property
    def success_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the success rate."""
        return wilson(sum(t.success for t in self.played), len(self.played))

    @property
    def mean_score(self) -> float:
        """Mean score in [0, 1]; NaN without any played episode."""
        return _mean([t.score for t in self.played])

    @property
    def mean_reward(self) -> float:
        """Mean of the summed rewards of an episode."""
        return _mean([t.total_reward for t in self.played])

    @property
    def mean_turns(self) -> float:
        """Mean number of turns."""
        return _mean([len(t.turns) for t in self.played])

    @property
    def invalid_share(self) -> float:
        """Share of turns whose action could not be executed."""
        return _mean([turn.invalid for t in self.played for turn in t.turns])

    @property
    def truncated_share(self) -> float:
        """Share of played episodes that a limit ended."""
        return _mean([t.status == "truncated" for t in self.played])

    @property
    def failures(self) -> dict[str, int]:
        """Number of failed episodes by type of error."""
        return dict(Counter((t.error or "").split(":")[0] for t in self.trajectories if t.status == "failed"))

    @property
    def agent_seconds(self) -> float:
        """Mean wall seconds the agent took for a turn."""
        return _mean([turn.agent_seconds for t in self.played for turn in t.turns])

    @property
    def env_seconds(self) -> float:
        """Mean wall seconds the environment took for a turn."""
        return _mean([turn.env_seconds for t in self.played for turn in t.turns])

    def summary(self) -> dict[str, Any]:
        """The figures above as a dictionary that JSON takes."""
        low, high = self.success_interval
        turns = sum(len(t.turns) for t in self.trajectories)
        figures: dict[str, Any] = {
            "episodes": self.episodes,
            "failed": self.episodes - len(self.played),
            "failures": self.failures,
            "success": self.success_rate,
            "success_low": low,
            "success_high": high,
            "score": self.mean_score,
            "reward": self.mean_reward,
            "turns": self.mean_turns,
            "invalid_share": self.invalid_share,
            "truncated_share": self.truncated_share,
            "agent_seconds_per_turn": self.agent_seconds,
            "env_seconds_per_turn": self.env_seconds,
            "seconds": self.seconds,
            "turns_per_second": turns / self.seconds if self.seconds else 0.0,
        }
        # JSON has no NaN: a figure over no episodes is null.
        return {k: None if isinstance(v, float) and v != v else v for k, v in figures.items()}

    def __str__(self) -> str:
        low, high = self.success_interval
        failed = ", ".join(f"{n} {name}" for name, n in sorted(self.failures.items()))
        return (
            f"success {self.success_rate:.3f} (95 % {low:.3f} to {high:.3f})  score {self.mean_score:.3f}  "
            f"turns {self.mean_turns:.1f}  invalid {self.invalid_share:.1%}  episodes {self.episodes}"
            + (f"  failed: {failed}" if failed else "")
        )

    def save(self, path: str | Path) -> Path:
        """Write `trajectories.jsonl` and `summary.json` into a folder, made if needed, and return it."""
        folder = Path(path)
        write_trajectories(folder / "trajectories.jsonl", self.trajectories)
        (folder / "summary.json").write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")
        return folder

    def to_frame(self) -> pandas.DataFrame:
        """One row per episode, as a pandas DataFrame (pandas must be installed)."""
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_frame needs pandas; pip install pandas") from error
        return pandas.DataFrame(
            [
                {
                    "env": t.env_id,
                    "task": t.task_id,
                    "split": t.split,
                    "seed": t.seed,
                    "group": t.group,
                    "agent": t.agent,
                    "status": t.status,
                    "success": t.success,
                    "score": t.score,
                    "reward": t.total_reward,
                    "turns": len(t.turns),
                    "invalid": sum(turn.invalid for turn in t.turns),
                    "error": t.error,
                }
                for t in self.trajectories
            ]
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def make_jobs(
    env: TurnEnv, episodes: int, *, seed: int, split: str | None, tasks: Sequence[str] | None, group_size: int
) -> list[Job]:
    """The jobs of a rollout: `group_size` episodes for each of `episodes / group_size` (task, seed) pairs."""
    if group_size < 1 or episodes < 1 or episodes % group_size:
        raise UsageError(
            f"episodes must be a positive multiple of group_size, got episodes={episodes}, group_size={group_size}"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed must be an integer of at least 0, got {seed!r}")
    env.tasks.size(split or env.split)
    jobs = []
    for g in range(episodes // group_size):
        task = env.tasks.find(tasks[g % len(tasks)]).id if tasks else None
        env_seed = seed * SEEDS_PER_PANEL + g
        jobs += [Job(env_seed, task, split, g, sample) for sample in range(group_size)]
    return jobs


async def collect(
    env: TurnEnv,
    agent: AgentLike,
    jobs: Sequence[Job],
    *,
    out: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> RolloutResult:
    """Play the jobs and wait for all; `options` are those of `play`.

    Args:
        out: JSON-lines file that gets each trajectory when it ends, so that an interruption loses no finished one.
        progress: called with (finished, total) after each episode.
    """
    began = time.perf_counter()
    found: dict[int, Trajectory] = {}
    file: IO[str] | None = None
    async with contextlib.AsyncExitStack() as stack:
        if out is not None:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(out, "w", encoding="utf-8"))  # noqa: SIM115  # the stack closes it
        # Closed here, not by the garbage collector: no episode may go on when this has raised.
        episodes = await stack.enter_async_context(contextlib.aclosing(play(env, agent, jobs, **options)))
        async for index, trajectory in episodes:
            found[index] = trajectory
            if file is not None:
                file.write(trajectory.to_json() + "\n")
                file.flush()
            if progress is not None:
                progress(len(found), len(jobs))
    return RolloutResult([found[i] for i in range(len(jobs))], time.perf_counter() - began)


def rollout(
    env: TurnEnv,
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
    out: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RolloutResult:
    """Play episodes and return what they came to.

    Args:
        env: the environment; episodes are played in clones of it, so it keeps its own state.
        agent: an `Agent`, or a function from the messages to the text of the answer.
        episodes: how many; a multiple of `group_size`.
        seed: which panel of tasks, and the agent's randomness: the same seed plays the same tasks.
        split: where the tasks come from; None for the environment's own.
        tasks: ids of the tasks to play, in turn, instead of those that follow from the seed.
        group_size: episodes of each task with the same environment seed.
        max_turns: truncates episodes earlier than the environment would.
        concurrency: episodes at a time.
        timeout: wall seconds for an episode, after which it has failed with `TimeoutError`; see `play`.
        out: JSON-lines file for the trajectories, written as they end.
        progress: called with (finished, total) after each episode.

    Raises:
        UsageError: a mistake of the caller; episodes already in `out` stay there.
    """
    jobs = make_jobs(env, episodes, seed=seed, split=split, tasks=tasks, group_size=group_size)
    return run_async(
        collect(
            env,
            agent,
            jobs,
            seed=seed,
            max_turns=max_turns,
            concurrency=concurrency,
            timeout=timeout,
            out=out,
            progress=progress,
        )
    )


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
