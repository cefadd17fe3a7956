"""Rewards as objects of evaluation: how well a source tells right turns from wrong ones, and good episodes from bad.

The trajectories are those of `planted_errors`: successes, and copies with one planted error of a known pattern. Nothing is
tuned on what it is measured on: tasks are dealt into two halves, and thresholds and calibration for one half are taken
from the other.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch

from ..agents.chat import ChatTokenizer
from ..agents.evaluate.figures import no_nan
from ..agents.evaluate.folder import write_text
from ..agents.evaluate.paired import read_evaluation
from ..agents.evaluate.report import Table
from ..agents.expert import ExpertAgent
from ..configs.schema import EnvSection, EvalRewardsConfig, FormatSection
from ..envs import Trajectory, TurnEnv, make, rollout
from ..envs.errors import UsageError
from ..envs.rollout import agent_seed, run_async
from .planted_errors import PATTERNS, Labelled, planted
from .rewards import Models, RewardPipeline, RewardSource, Scores

Aggregate = Literal["mean", "sum", "min", "last"]

_BINS = 10


@dataclass(frozen=True)
class RewardRow:
    """How one source did. The first two rows are `oracle`, which reads the labels, and `random`, which draws numbers.

    Attributes:
        source: its name.
        turns: number of labelled turns that it gave a number.
        step_accuracy: mean of the shares of right and of wrong turns that fall on their side of the threshold; 0.5 by
            chance, whatever the share of wrong turns.
        auc: chance that a right turn has a higher number than a wrong one, ties counting half; 0.5 by chance.
        first_error_f1: harmonic mean of two shares: of the trajectories with a planted error those whose first turn below
            the threshold is that turn, and of those without any those in which no turn is below (ProcessBench, Zheng et
            al., arXiv 2412.06559).
        best_of_n: success of the trajectory with the highest aggregate among those of a task, ties shared.
        rank_correlation: Spearman's, of aggregate and score of all trajectories.
        ece: expected calibration error of the chance that a turn is right, in ten bins of equal width.
        brier: mean squared error of the same.
        found: by pattern, the share of planted errors below the threshold.
        missing: share of labelled turns without a number.
    """

    source: str
    turns: int
    step_accuracy: float
    auc: float
    first_error_f1: float
    best_of_n: float
    rank_correlation: float
    ece: float
    brier: float
    found: dict[str, float]
    missing: float


@dataclass(frozen=True)
class RewardEvaluation:
    """What `evaluate_sources` found.

    Attributes:
        rows: one per source.
        trajectories: number of them.
        wrong: share of the labelled turns that are wrong.
        patterns: number of planted errors by pattern.
        aggregate: of the numbers of the turns of a trajectory.
        n: mean number of trajectories of a task.
    """

    rows: list[RewardRow]
    trajectories: int
    wrong: float
    patterns: dict[str, int]
    aggregate: Aggregate
    n: float

    def as_json(self) -> dict[str, Any]:
        """Everything as a dictionary that JSON takes."""
        plain: dict[str, Any] = no_nan(asdict(self))
        return plain


def evaluate_sources(
    data: Sequence[Labelled], scores: Mapping[str, Scores], *, aggregate: Aggregate = "mean", seed: int = 0
) -> RewardEvaluation:
    """Measure sources by the numbers that they gave.

    Args:
        data: labelled trajectories; those of one `group` are candidates for the same task.
        scores: by source, one number per turn of each trajectory, None where there is none.
        aggregate: what makes one number of those of a trajectory's turns.
        seed: of the row `random`.
    """
    rng = np.random.Generator(np.random.PCG64([seed, len(data)]))
    everything: dict[str, Scores] = {
        "oracle": [[float(said is not False) for said in d.right] for d in data],
        "random": [rng.random(len(d.right)).tolist() for d in data],
        **scores,
    }
    rows = []
    for name, numbers in everything.items():
        whole = [_aggregate(row, aggregate) for row in numbers]
        if name == "oracle":
            whole = [d.trajectory.score for d in data]
        rows.append(_row(name, data, numbers, whole))
    labels = [said for d in data for said in d.right if said is not None]
    return RewardEvaluation(
        rows=rows,
        trajectories=len(data),
        wrong=labels.count(False) / len(labels) if labels else math.nan,
        patterns={p: sum(d.pattern == p for d in data) for p in PATTERNS},
        aggregate=aggregate,
        n=len(data) / max(1, len({d.trajectory.group for d in data})),
    )


def tables(found: RewardEvaluation) -> list[Table]:
    """The figures for people."""
    columns = [
        "source",
        "step",
        "AUC",
        "first F1",
        f"best of {found.n:.1f}",
        "rank",
        "ECE",
        "Brier",
        "missing",
    ]
    rows = [
        [
            r.source,
            *(
                _number(v)
                for v in (
                    r.step_accuracy,
                    r.auc,
                    r.first_error_f1,
                    r.best_of_n,
                    r.rank_correlation,
                    r.ece,
                    r.brier,
                )
            ),
            f"{r.missing:.0%}",
        ]
        for r in found.rows
    ]
    patterns = [
        [pattern, str(count), *(_number(r.found.get(pattern, math.nan)) for r in found.rows)]
        for pattern, count in found.patterns.items()
        if count
    ]
    return [
        Table(f"{found.trajectories} trajectories, {found.wrong:.0%} of the turns wrong", columns, rows),
        Table(
            "planted errors that are found", ["pattern", "planted", *(r.source for r in found.rows)], patterns
        ),
    ]


def run(config: EvalRewardsConfig, *, say: Callable[[str], None] = print) -> RewardEvaluation:
    """Plant errors, score them with every source of the configuration, and measure; writes rewards.json where asked.

    Raises:
        UsageError: a source needs what is not given, or there is no episode to plant errors in.
    """
    learned = None
    if config.model is not None:
        from .policy_of_run import open_policy

        opened = open_policy(
            config.model,
            config.env,
            config.format,
            temperature=1.0,
            max_new_tokens=config.max_new_tokens,
            slots=config.concurrency,
            seed=config.seed,
            say=say,
        )
        env, around = opened.env, opened.around
        entries = config.reward or (opened.trained.reward if opened.trained else ["env"])
        learned = opened.state["rewards"] if opened.state is not None and config.reward is None else None
    else:
        env = _env(config)
        around = Models(env=env, seed=config.seed)
        entries = config.reward or ["env"]
    pipeline = RewardPipeline(entries)
    pipeline.check(around)
    if learned is not None:
        pipeline.load_state_dict(learned)
    data = planted(env, _episodes(config, env), seed=config.seed)
    say(f"{len(data)} trajectories, {sum(d.pattern is not None for d in data)} with a planted error")
    if around.chat is not None:
        for d in data:
            with_tokens(d.trajectory, around)
    try:
        scores = {e.name: _scored(e.source, [d.trajectory for d in data], around) for e in pipeline.entries}
    finally:
        pipeline.close()
    found = evaluate_sources(data, scores, aggregate=config.aggregate, seed=config.seed)
    if config.out is not None:
        Path(config.out).mkdir(parents=True, exist_ok=True)
        write_text(Path(config.out) / "rewards.json", json.dumps(found.as_json(), indent=2) + "\n")
    return found


def with_tokens(trajectory: Trajectory, around: Models) -> None:
    """Give the turns the tokens of their texts, and the policy's log-probabilities of them, as if it had sampled them."""
    from .local.policy import token_log_probs

    chat: ChatTokenizer | None = around.chat
    assert chat is not None and around.policy is not None
    if not trajectory.turns:
        return
    end = min(chat.end_of_turn, default=None)
    role = around.env.observation_role
    messages = [{"role": "system", "content": trajectory.system}] if trajectory.system else []
    messages.append({"role": "user", "content": trajectory.turns[0].observation})
    prompt = chat.start(messages)
    tokens: list[int] = []
    acted: list[bool] = []
    for k, turn in enumerate(trajectory.turns):
        ids = around.tokenizer.encode(turn.action, add_special_tokens=False)
        turn.prompt_ids, turn.action_ids = prompt, [*ids, *([] if end is None else [end])]
        tokens += [*prompt, *turn.action_ids]
        acted += [False] * len(prompt) + [True] * len(turn.action_ids)
        if k + 1 < len(trajectory.turns):
            answer = {"role": role, "content": trajectory.turns[k + 1].observation}
            prompt = chat.append(messages, [answer], turn.action_ids)
            messages += [{"role": "assistant", "content": turn.action}, answer]
    row = torch.tensor([tokens], device=around.device)
    mask = torch.tensor([acted], device=around.device)
    with torch.no_grad():
        log_probs, _ = token_log_probs(around.policy, row, mask, temperature=around.temperature)
    known = log_probs[mask].tolist()
    for turn in trajectory.turns:
        count = len(turn.action_ids)
        turn.action_log_probs, known = known[:count], known[count:]


def isotonic(x: Sequence[float], y: Sequence[float]) -> Callable[[float], float]:
    """The rising step function nearest to the points in squares, by pooling adjacent violators (Ayer et al., 1955)."""
    blocks: list[list[float]] = []  # [largest x, sum of y, count]
    for at, group in _by_value(x, y):
        blocks.append([at, math.fsum(group), len(group)])
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            at, total, count = blocks.pop()
            blocks[-1] = [at, blocks[-1][1] + total, blocks[-1][2] + count]
    ends = np.array([b[0] for b in blocks])
    levels = [b[1] / b[2] for b in blocks]
    return lambda value: levels[min(int(np.searchsorted(ends, value)), len(levels) - 1)]


def best_threshold(x: Sequence[float], right: Sequence[bool]) -> float:
    """The threshold with the best mean of the shares of right turns at or above it and of wrong ones below it."""
    total_right, total_wrong = sum(right), len(right) - sum(right)
    best, threshold = -1.0, -math.inf
    below_right = below_wrong = 0
    previous = -math.inf
    for at, group in _by_value(x, [float(r) for r in right]):
        share = (1 - below_right / max(1, total_right)) + below_wrong / max(1, total_wrong)
        if share > best + 1e-12:
            best, threshold = share, at if previous == -math.inf else (previous + at) / 2
        below_right += int(sum(group))
        below_wrong += len(group) - int(sum(group))
        previous = at
    return threshold


def first_error_threshold(members: Sequence[tuple[Labelled, Sequence[float | None]]]) -> float:
    """The threshold with the best F1 of first errors, among at most 64 between the numbers that there are."""
    values = np.unique([v for _, row in members for v in row if v is not None])
    if not len(values):
        return -math.inf
    between = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    tried = between[np.unique(np.linspace(0, len(between) - 1, 64).astype(int))]
    data = [d for d, _ in members]
    found = [(_first_error(data, [_below(row, float(t)) for _, row in members]), float(t)) for t in tried]
    return max(found, key=lambda pair: (pair[0], -pair[1]))[1]


def _row(name: str, data: Sequence[Labelled], numbers: Scores, whole: Sequence[float]) -> RewardRow:
    half = [agent_seed("half", d.trajectory.task_id) % 2 for d in data]
    steps: list[list[bool | None]] = [[] for _ in data]  # whether a turn is below the threshold of turns
    firsts: list[list[bool | None]] = [[] for _ in data]  # the same of the threshold of first errors
    chances: list[tuple[float, bool]] = []
    sides: dict[bool, list[bool]] = {True: [], False: []}
    for part in (0, 1):
        use = [h != part for h in half]
        if len({right for _, right in _known(data, numbers, use)}) < 2:
            use = [True] * len(data)  # too few tasks for two halves
        known = _known(data, numbers, use)
        x, right = [v for v, _ in known], [r for _, r in known]
        threshold = best_threshold(x, right) if known else -math.inf
        first = first_error_threshold(
            [(d, row) for d, row, there in zip(data, numbers, use, strict=True) if there]
        )
        chance = isotonic(x, [float(r) for r in right]) if known else None
        for i, d in enumerate(data):
            if half[i] != part:
                continue
            steps[i], firsts[i] = _below(numbers[i], threshold), _below(numbers[i], first)
            for value, said in zip(numbers[i], d.right, strict=True):
                if value is not None and said is not None:
                    sides[said].append((value < threshold) != said)
                    assert chance is not None
                    chances.append((chance(value), said))
    labelled = [
        (v, said)
        for d, row in zip(data, numbers, strict=True)
        for v, said in zip(row, d.right, strict=True)
        if said is not None
    ]
    known = [(v, said) for v, said in labelled if v is not None]
    return RewardRow(
        source=name,
        turns=len(known),
        step_accuracy=fmean(fmean(side) for side in sides.values()) if all(sides.values()) else math.nan,
        auc=_auc([v for v, said in known if said], [v for v, said in known if not said]),
        first_error_f1=_first_error(data, firsts),
        best_of_n=_best_of_n(data, whole),
        rank_correlation=_spearman(whole, [d.trajectory.score for d in data]),
        ece=_calibration_error(chances),
        brier=fmean((p - said) ** 2 for p, said in chances) if chances else math.nan,
        found=_found(data, steps),
        missing=1 - len(known) / len(labelled) if labelled else 0.0,
    )


def _below(row: Sequence[float | None], threshold: float) -> list[bool | None]:
    return [None if v is None else v < threshold for v in row]


def _known(data: Sequence[Labelled], numbers: Scores, use: Sequence[bool]) -> list[tuple[float, bool]]:
    return [
        (v, said)
        for d, row, there in zip(data, numbers, use, strict=True)
        if there
        for v, said in zip(row, d.right, strict=True)
        if v is not None and said is not None
    ]


def _found(data: Sequence[Labelled], verdicts: Sequence[Sequence[bool | None]]) -> dict[str, float]:
    """By pattern, the share of planted errors that lie below the threshold."""
    hits: defaultdict[str, list[bool]] = defaultdict(list)
    for d, verdict in zip(data, verdicts, strict=True):
        if d.pattern is not None and d.error is not None:
            hits[d.pattern].append(bool(verdict[d.error]))
    return {pattern: fmean(hits[pattern]) for pattern in PATTERNS if hits[pattern]}


def _first_error(data: Sequence[Labelled], verdicts: Sequence[Sequence[bool | None]]) -> float:
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for d, verdict in zip(data, verdicts, strict=True):
        if d.pattern is not None or d.error is None:
            first = next((k for k, below in enumerate(verdict) if below), None)
            hits[d.error is not None].append(first == d.error)
    if not all(hits.values()):
        return math.nan
    a, b = fmean(hits[True]), fmean(hits[False])
    return 2 * a * b / (a + b) if a + b else 0.0


def _best_of_n(data: Sequence[Labelled], whole: Sequence[float]) -> float:
    groups: defaultdict[int, list[tuple[float, bool]]] = defaultdict(list)
    for d, value in zip(data, whole, strict=True):
        groups[d.trajectory.group].append((value, d.trajectory.success))
    picked = []
    for members in groups.values():
        if len(members) > 1:
            top = max(value for value, _ in members)
            picked.append(fmean(success for value, success in members if value == top))
    return fmean(picked) if picked else math.nan


def _aggregate(row: Sequence[float | None], how: Aggregate) -> float:
    """One number of those of a trajectory's turns; the least there is where there is none."""
    known = [v for v in row if v is not None]
    if not known:
        return -math.inf
    match how:
        case "mean":
            return fmean(known)
        case "sum":
            return math.fsum(known)
        case "min":
            return min(known)
        case "last":
            return known[-1]


def _auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    if not right or not wrong:
        return math.nan
    ranks = _ranks([*right, *wrong])
    return float((ranks[: len(right)].sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    a, b = _ranks(x), _ranks(y)
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return 0.0  # who ranks nothing is as good as chance
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks from 1, ties sharing their mean."""
    x = np.asarray(list(values), dtype=float)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: np.ndarray[Any, np.dtype[np.float64]] = (last - (counts - 1) / 2)[inverse]
    return shared


def _calibration_error(chances: Sequence[tuple[float, bool]]) -> float:
    if not chances:
        return math.nan
    bins: defaultdict[int, list[tuple[float, bool]]] = defaultdict(list)
    for p, said in chances:
        bins[min(int(p * _BINS), _BINS - 1)].append((p, said))
    return sum(
        len(members) / len(chances) * abs(fmean(p for p, _ in members) - fmean(said for _, said in members))
        for members in bins.values()
    )


def _by_value(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, list[float]]]:
    """The values of y by x, in rising order of x."""
    groups: defaultdict[float, list[float]] = defaultdict(list)
    for at, value in zip(x, y, strict=True):
        groups[at].append(value)
    return sorted(groups.items())


def _scored(source: RewardSource, trajectories: Sequence[Trajectory], around: Models) -> Scores:
    return run_async(source.score(trajectories, around))


def _env(config: EvalRewardsConfig) -> TurnEnv:
    if config.env is None and config.trajectories is not None:
        first = next(iter(read_evaluation(config.trajectories)), None)
        if first is None:
            raise UsageError(f"{config.trajectories} has no episodes")
        return make(first.env_id, **first.env_kwargs)
    section, form = config.env or EnvSection(), config.format or FormatSection()
    return make(
        section.id, **{"format": form.name, "system_prompt": form.system_prompt, **section.parameters}
    )


def _episodes(config: EvalRewardsConfig, env: TurnEnv) -> list[Trajectory]:
    """The episodes that errors are planted in: those of a file, or the expert's."""
    if config.trajectories is None:
        return rollout(env, ExpertAgent(), config.tasks, seed=config.seed, split=config.split).trajectories
    found = read_evaluation(config.trajectories)
    other = next((t for t in found if t.env_id != env.env_id), None)
    if other is not None:
        raise UsageError(f"{config.trajectories} has episodes of {other.env_id}; give env={other.env_id}")
    # What belongs to one task is one group, also where several evaluations were put into one file.
    tasks = {task: i for i, task in enumerate(dict.fromkeys(t.task_id for t in found))}
    for t in found:
        t.group = tasks[t.task_id]
    return found


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
