"""The credit audit: how near each scheme comes to the true advantage of a turn under the current policy.

Because an episode can be copied in the middle, the advantage of a turn can be measured instead of estimated: play on
many times from the state before the turn and from the state after it, and take the difference of the two means. The
schemes see what they see in training, groups of rollouts with their rewards; the truth is what they are compared with.

The truth of turn t is V(s_{t+1}) - V(s_t) for the state that the turn really led to. Its expectation over the
environment's randomness is the advantage Q(s_t, a_t) - V(s_t); in a deterministic environment the two are the same.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..configs.schema import AuditConfig
from ..envs import Trajectory, TurnEnv
from ..envs.agent import AgentLike
from ..envs.errors import UsageError
from ..envs.rollout import collect, make_jobs, run_async
from . import credit, run_folder
from .batch import TurnBatch
from .collate import collate
from .local.critic import Critic
from .local.readings import with_entropy
from .policy_of_run import open_policy
from .rerolls import gain, values
from .rewards import RewardPipeline

Target = Literal["success", "score", "return"]


@dataclass(frozen=True)
class Row:
    """How one scheme or one reward did, over the audited turns.

    The advantage of a scheme has a scale of its own (z-scores, units of reward), which the optimizer's step size takes
    up; so bias and variance are those of the advantage times the one factor that brings it nearest to the truth.

    Attributes:
        scheme: its name, or `reward:NAME` for the numbers of a reward source as they are.
        pearson: correlation with the truth, corrected for the noise of the measured truth (divided by the square root
            of its reliability); NaN where the scheme or the truth is constant.
        pearson_raw: the same, not corrected.
        spearman: rank correlation, corrected likewise.
        sign: share of turns, among those whose truth is two standard errors from 0, whose advantage has its sign.
        bias: mean of scaled advantage minus truth, in units of the target.
        deviation: standard deviation of the same, without the noise of the truth.
        zero: share of turns that get no credit at all.
        seconds: to compute the credit of the whole batch; NaN for a reward, whose cost every training step reports.
    """

    scheme: str
    pearson: float
    pearson_raw: float
    spearman: float
    sign: float
    bias: float
    deviation: float
    zero: float
    seconds: float


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        rows: one per scheme and per source of rewards, best corrected correlation first.
        skipped: schemes that could not be computed, with the reason.
        turns: number of audited turns.
        clear: number of them whose truth is two standard errors from 0.
        reliability: share of the variance of the measured truth that is not noise.
        success: of the rollouts.
        truth: per audited turn: trajectory, turn, advantage measured, standard error.
        advantages: per row, the advantage or reward of each audited turn.
    """

    rows: list[Row]
    skipped: dict[str, str]
    turns: int
    clear: int
    reliability: float
    success: float
    truth: list[tuple[int, int, float, float]]
    advantages: dict[str, list[float]]

    def summary(self) -> dict[str, Any]:
        """Everything as plain data for JSON; a figure that does not exist is null."""
        data = asdict(self)
        data["rows"] = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            for row in data["rows"]
        ]
        return data

    def __str__(self) -> str:
        lines = [
            f"{self.turns} turns of rollouts with success {self.success:.3f}; the truth is clear of 0 on {self.clear}, "
            f"its reliability is {self.reliability:.2f}",
            f"{'scheme':<22}{'pearson':>9}{'spearman':>10}{'sign':>7}{'bias':>9}{'dev':>8}{'zero':>7}{'ms':>8}",
        ]
        lines += [
            f"{r.scheme:<22}{r.pearson:>9.3f}{r.spearman:>10.3f}{r.sign:>7.2f}{r.bias:>+9.3f}{r.deviation:>8.3f}"
            f"{r.zero:>7.2f}{'' if math.isnan(r.seconds) else format(1e3 * r.seconds, '.1f'):>8}"
            for r in self.rows
        ]
        lines += [f"{name:<22}skipped: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


def audit(
    env: TurnEnv,
    agent: AgentLike,
    schemes: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    turns: int = 256,
    rerolls: int = 64,
    tasks: int = 32,
    group_size: int = 8,
    target: Target = "success",
    seed: int = 0,
    concurrency: int = 128,
    enrich: Callable[[TurnBatch, list[Trajectory]], TurnBatch] | None = None,
) -> Audit:
    """Measure the true advantage of a sample of turns and compare every scheme with it.

    Args:
        env: must have working `snapshot` and `restore`.
        agent: the policy; it plays the rollouts and the re-rolls.
        schemes: parameters by name of scheme; None for all registered, with their defaults.
        turns: how many turns to audit, drawn without repeats from all turns of the rollouts.
        rerolls: episodes from the state before and from the state after each turn.
        tasks, group_size: the rollouts: `group_size` episodes for each of `tasks` tasks of the train split.
        target: what a state's value is the mean of; "return" is the sum of rewards from the turn on.
        seed: of tasks, rollouts, sample and re-rolls.
        concurrency: episodes at a time.
        enrich: `(batch, trajectories) -> batch`, to add what some schemes need, such as a critic's values or the
            numbers of reward sources in `extra`, each of which gets a row of its own.

    Raises:
        UsageError: fewer than two rollouts came to an end.
    """
    jobs = make_jobs(env, tasks * group_size, seed=seed, split="train", tasks=None, group_size=group_size)
    rollout = run_async(collect(env, agent, jobs, seed=seed, concurrency=concurrency))
    trajectories = rollout.trajectories
    batch = collate(trajectories)
    if len(rollout.played) < 2:
        raise UsageError(f"an audit needs rollouts, and {rollout.failures} failed")
    earned = batch.rewards
    if enrich is not None:
        batch = enrich(batch, trajectories)

    everything = [
        (i, k) for i, t in enumerate(trajectories) if t.status != "failed" for k in range(len(t.turns))
    ]
    rng = np.random.default_rng([seed, 1])
    drawn = rng.choice(len(everything), min(turns, len(everything)), replace=False)
    sample = [everything[i] for i in sorted(drawn.tolist())]
    states: list[list[int]] = [[] for _ in trajectories]
    for i, k in sample:
        states[i] = sorted({*states[i], k, k + 1})
    owners = [i for i, row in enumerate(states) if row]
    measured = run_async(
        values(
            env,
            agent,
            [trajectories[i] for i in owners],
            [states[i] for i in owners],
            rerolls,
            target=target,
            seed=seed + 1,
            concurrency=concurrency,
        )
    )
    by_trajectory = dict(zip(owners, measured, strict=True))
    truth = [(i, k, *gain(by_trajectory[i], k)) for i, k in sample]

    rows, skipped, advantages = [], {}, {}
    chosen = {name: {} for name in credit.credit_schemes()} if schemes is None else schemes
    for name, parameters in chosen.items():
        try:
            began = time.perf_counter()
            advantage = credit.compute(name, batch, **parameters)
            seconds = time.perf_counter() - began
        except credit.MissingInput as error:
            skipped[name] = str(error)
            continue
        if credit.spec(name).level == "token":
            advantage = _per_turn(advantage, batch)
        advantages[name] = [advantage[i, k].item() for i, k in sample]
        rows.append(compare(name, advantages[name], [t[2] for t in truth], [t[3] for t in truth], seconds))
    sources = {name: x for name, x in batch.extra.items() if "/" not in name}
    for name, paid in {"env": earned, **sources}.items():
        name = f"reward:{name}"
        advantages[name] = [paid[i, k].item() for i, k in sample]
        rows.append(compare(name, advantages[name], [t[2] for t in truth], [t[3] for t in truth], math.nan))
    rows.sort(key=lambda r: -r.pearson if math.isfinite(r.pearson) else math.inf)
    y, noise = np.array([t[2] for t in truth]), np.array([t[3] for t in truth])
    return Audit(
        rows=rows,
        skipped=skipped,
        turns=len(sample),
        clear=int((np.abs(y) > 2 * noise).sum()),
        reliability=reliability(y, noise),
        success=rollout.success_rate,
        truth=truth,
        advantages=advantages,
    )


def reliability(truth: np.ndarray, error: np.ndarray) -> float:
    """Share of the variance of a measured quantity that is not its measurement noise, in [0, 1]."""
    variance = float(np.var(truth))
    return max(0.0, 1.0 - float(np.mean(error**2)) / variance) if variance > 0 else 0.0


def compare(
    scheme: str, advantage: Sequence[float], truth: Sequence[float], error: Sequence[float], seconds: float
) -> Row:
    """The figures of a `Row` from advantages, measured truths and their standard errors, one each per turn."""
    x, y, e = np.array(advantage), np.array(truth), np.array(error)
    correct = math.sqrt(reliability(y, e)) or math.nan
    clear = np.abs(y) > 2 * e
    scale = float(x @ y / (x @ x)) if (x @ x) > 0 else 0.0
    off = scale * x - y
    noise = float(np.mean(e**2))
    raw = _correlation(x, y)
    return Row(
        scheme=scheme,
        pearson=_bounded(raw / correct),
        pearson_raw=raw,
        spearman=_bounded(_correlation(_ranks(x), _ranks(y)) / correct),
        sign=float(np.mean(np.sign(x[clear]) == np.sign(y[clear]))) if clear.any() else math.nan,
        bias=float(off.mean()),
        deviation=math.sqrt(max(0.0, float(off.var()) - noise)),
        zero=float(np.mean(np.abs(x) < 1e-8)),
        seconds=seconds,
    )


def _bounded(r: float) -> float:
    return r if math.isnan(r) else min(1.0, max(-1.0, r))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else math.nan


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts + 1) / 2)[inverse]


def _per_turn(on_tokens: torch.Tensor, batch: TurnBatch) -> torch.Tensor:
    """[B, K]: mean over the tokens of each turn of [R, L]."""
    assert batch.turn_of_token is not None and batch.action_mask is not None
    assert batch.row_to_trajectory is not None and batch.turn_tokens is not None
    owner = batch.row_to_trajectory[:, None].expand_as(batch.action_mask)[batch.action_mask]
    total = torch.zeros(batch.rewards.shape)
    total.index_put_(
        (owner, batch.turn_of_token[batch.action_mask]), on_tokens[batch.action_mask].float(), accumulate=True
    )
    return total / batch.turn_tokens.clamp(min=1)


def run(config: AuditConfig, *, say: Callable[[str], None] = print) -> Audit:
    """Audit the policy of a run folder or of any model; writes audit.json and audit.png where asked.

    Raises:
        UsageError: the model is no run folder and no environment is given.
        UnknownCredit: a scheme is not registered.
    """
    names = credit.credit_schemes() if "all" in config.credit else config.credit
    schemes: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        credit.check(name, {})
    opened = open_policy(
        config.model,
        config.env,
        config.format,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        slots=config.concurrency,
        seed=config.seed,
        say=say,
    )
    env, agent, around = opened.env, opened.agent, opened.around
    model, device, source = around.policy, around.device, opened.source
    trained, state = opened.trained, opened.state
    rewards = RewardPipeline(config.reward or (trained.reward if trained else ["env"]))
    rewards.check(around)
    if state is not None and config.reward is None:
        rewards.load_state_dict(state["rewards"])  # what the run's reward models have learned

    def enrich(batch: TurnBatch, trajectories: list[Trajectory]) -> TurnBatch:
        batch = run_async(rewards.score(trajectories, batch, around)).batch
        batch = with_entropy(model, batch, temperature=config.temperature, token_budget=16384, autocast=None)
        if not config.critic_steps:
            return batch
        critic = Critic(source, agent.chat, env, device=device, lr=1e-3, token_budget=16384)
        say(f"fitting a critic for {config.critic_steps} steps on rollouts of other tasks")
        episodes = config.tasks * config.group_size
        jobs = make_jobs(
            env, episodes, seed=config.seed + 1, split="train", tasks=None, group_size=config.group_size
        )
        other = run_async(
            collect(env, agent, jobs, seed=config.seed + 1, concurrency=config.concurrency)
        ).trajectories
        fit = critic.attach(collate(other), other)
        monte_carlo = credit.critic_targets("turn_gae", fit, gamma=1.0, lam=1.0)
        critic.update(fit, monte_carlo, level="turn", epochs=config.critic_steps, max_grad_norm=1.0)
        return critic.attach(batch, trajectories)

    found = audit(
        env,
        agent,
        schemes,
        turns=config.turns,
        rerolls=config.rerolls,
        tasks=config.tasks,
        group_size=config.group_size,
        target=config.target,
        seed=config.seed,
        concurrency=config.concurrency,
        enrich=enrich,
    )
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        run_folder.write_text(out / "audit.json", json.dumps(found.summary(), indent=2) + "\n")
        plot(found, out / "audit.png")
    return found


def plot(found: Audit, path: Path) -> None:
    """Write a picture: correlation per scheme, and advantage against truth for the best four."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    best = [r for r in found.rows if math.isfinite(r.pearson)]
    figure, axes = plt.subplots(
        1, 1 + min(4, len(best)), figsize=(4 + 3 * min(4, len(best)), 0.25 * len(best) + 2.5)
    )
    axes = np.atleast_1d(axes)
    axes[0].barh([r.scheme for r in best][::-1], [r.pearson for r in best][::-1])
    axes[0].set(title="correlation with the truth", xlim=(min(0.0, *(r.pearson for r in best), 0.0), 1))
    truth = [t[2] for t in found.truth]
    for axis, row in zip(axes[1:], best, strict=False):
        axis.scatter(truth, found.advantages[row.scheme], s=6, alpha=0.5)
        axis.axhline(0, lw=0.5, color="grey")
        axis.axvline(0, lw=0.5, color="grey")
        axis.set(title=row.scheme, xlabel="true advantage")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
