"""The episode loop: many episodes at once, none of which can hold up or lose another.

`play` takes jobs (which task, which seed) and yields trajectories as they end; `rollout` makes the jobs, waits and
returns a `RolloutResult`.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from .agent import AgentLike, Conversation, Reply
from .core import TurnEnv
from .errors import ContextFull, UsageError
from .trajectory import Trajectory, Turn, write_trajectories

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")

SEEDS_PER_PANEL = 10_000
"""`rollout(seed=s)` plays the environment seeds from `s * SEEDS_PER_PANEL` on, so that panels do not overlap."""


class Job(NamedTuple):
    """One episode to play.

    Attributes:
        seed: the environment's.
        task: id, or None for the task that follows from the seed.
        split: None for the environment's own.
        group: number of the group of episodes with the same task and seed.
        sample: number within the group; with the seed it fixes what the agent draws.
    """

    seed: int
    task: str | None = None
    split: str | None = None
    group: int = 0
    sample: int = 0


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
) -> AsyncIterator[tuple[int, Trajectory]]:
    """Play the jobs and yield (index of the job, trajectory) as episodes end, in the order in which they end.

    An episode in which environment or agent raises is played once more with a fresh environment, then recorded as
    `failed` with its typed error. A `UsageError` is the caller's mistake and ends everything at once.

    Args:
        env: episodes are played in clones of it.
        agent: see `turnwise.Conversation` and `turnwise.Reply`.
        jobs: what to play.
        seed: mixed into the agent's seed of each episode.
        max_turns: truncates episodes earlier than the environment would.
        concurrency: episodes at a time, and clones of the environment.
        timeout: wall seconds for one episode, after which it has failed with `TimeoutError`.
    """
    if concurrency < 1:
        raise UsageError(f"concurrency must be at least 1, got {concurrency}")
    act = _as_act(agent)
    pending = iter(enumerate(jobs))
    done: asyncio.Queue[tuple[int, Trajectory] | BaseException] = asyncio.Queue()
    pool = ThreadPoolExecutor(concurrency, "turnwise-env") if env.blocking else None

    async def worker() -> None:
        own = env.clone()
        for index, job in pending:
            for attempt in (1, 2):
                trajectory = await _episode(own, agent, act, job, attempt, seed, max_turns, timeout, pool)
                if trajectory.status != "failed":
                    break
                own = env.clone()
            done.put_nowait((index, trajectory))

    async def guarded() -> None:
        try:
            await worker()
        except BaseException as error:
            done.put_nowait(error)

    workers = [asyncio.create_task(guarded()) for _ in range(min(concurrency, len(jobs)))]
    try:
        for _ in range(len(jobs)):
            item = await done.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _as_act(agent: AgentLike) -> Callable[[Conversation], Awaitable[Reply]]:
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
        if isinstance(answer, str):
            return Reply(answer)
        if not isinstance(answer, Reply):
            raise UsageError(f"agent {agent_name(agent)} must answer with a str or a Reply, got {type(answer).__name__}")
        return answer

    return call


def agent_name(agent: AgentLike) -> str:
    """What trajectories call an agent: its `name`, its function name or its class name."""
    return str(getattr(agent, "name", None) or getattr(agent, "__name__", None) or type(agent).__name__)


async def _episode(
    env: TurnEnv,
    agent: AgentLike,
    act: Callable[[Conversation], Awaitable[Reply]],
    job: Job,
    attempt: int,
    seed: int,
    max_turns: int | None,
    timeout: float | None,
    pool: ThreadPoolExecutor | None,
) -> Trajectory:
    """Play one episode; every exception but the caller's mistakes becomes a failed trajectory."""
    trajectory = Trajectory(
        env_id=env.env_id,
        env_kwargs=env.parameters,
        task_id=job.task or "",
        split=job.split or env.split,
        seed=job.seed,
        status="failed",
        score=0.0,
        success=False,
        turns=[],
        group=job.group,
        agent=agent_name(agent),
        agent_seed=agent_seed(seed, job.seed, job.task, job.sample),
        attempts=attempt,
    )
    conversation: Conversation | None = None

    async def on_env(function: Callable[[], T]) -> T:
        if pool is None:
            return function()
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    async def run() -> None:
        nonlocal conversation
        options = {"task": job.task, "split": job.split}
        observation, info = await on_env(partial(env.reset, seed=job.seed, options=options))
        assert env.task is not None
        trajectory.task_id, trajectory.split = env.task.id, env.task.split
        trajectory.reference = env.reference()
        opening = env.messages(observation)
        trajectory.system = opening[0]["content"] if opening[0]["role"] == "system" else ""
        episode = f"{trajectory.id}:{job.group}.{job.sample}.{attempt}"
        conversation = Conversation(opening, id=episode, seed=trajectory.agent_seed, env=env)
        role = env.observation_role
        limit = max_turns or env.max_turns
        status: Literal["terminated", "truncated"] | None = None
        while status is None:
            began = time.perf_counter()
            try:
                reply = await act(conversation)
            except ContextFull:
                status, trajectory.score = "truncated", env.score()
                break
            acted = time.perf_counter()
            text = _writable(reply.text)
            state_key = info["state_key"]
            seen = observation
            observation, reward, terminated, truncated, info = await on_env(partial(env.step, text))
            answered = time.perf_counter()
            trajectory.turns.append(
                Turn(
                    observation=seen,
                    action=text,
                    tool=info["tool"],
                    arguments=info["arguments"],
                    reward=reward,
                    rewards={"env": reward},
                    state_key=state_key if isinstance(state_key, str) else repr(state_key),
                    invalid=info["invalid"],
                    agent_seconds=acted - began,
                    env_seconds=answered - acted,
                    prompt_ids=list(reply.prompt_ids),
                    action_ids=list(reply.action_ids),
                    action_log_probs=list(reply.action_log_probs),
                )
            )
            conversation.append({"role": "assistant", "content": text})
            conversation.append({"role": role, "content": observation})
            if terminated or truncated:
                status = "terminated" if terminated else "truncated"
                trajectory.score, trajectory.success = info["score"], info["success"]
            elif len(trajectory.turns) >= limit:
                status, trajectory.score = "truncated", env.score()
                if env.reward == "outcome":
                    trajectory.turns[-1].reward = trajectory.turns[-1].rewards["env"] = trajectory.score
        trajectory.final_observation = observation
        trajectory.status = status

    try:
        await asyncio.wait_for(run(), timeout)
    except UsageError:
        raise
    except Exception as error:
        trajectory.status, trajectory.score, trajectory.success = "failed", 0.0, False
        trajectory.error = f"{type(error).__name__}: {error}"[:2000]
    finally:
        close = getattr(agent, "close", None)
        if conversation is not None and callable(close):
            close(conversation)
    return trajectory


def _writable(text: str) -> str:
    """Text without lone surrogates, which no file or tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def wilson(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson, 1927); (0, 1) without data."""
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
    try:
        if out is not None:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            file = open(out, "w", encoding="utf-8")
        async for index, trajectory in play(env, agent, jobs, **options):
            found[index] = trajectory
            if file is not None:
                file.write(trajectory.to_json() + "\n")
                file.flush()
            if progress is not None:
                progress(len(found), len(jobs))
    finally:
        if file is not None:
            file.close()
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
        timeout: wall seconds for an episode, after which it has failed with `TimeoutError`.
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
        return cast(T, pool.submit(asyncio.run, coroutine).result())
