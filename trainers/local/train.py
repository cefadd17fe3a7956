"""The local trainer: one process, one loop, read from top to bottom.

    sample tasks -> groups of rollouts -> rewards -> credit -> batch -> update -> checkpoint -> evaluate

Everything random is drawn from (seed of the run, step, ...), never from a generator that lives on, so that a run that
was killed goes on from its last checkpoint bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from ...agents.local import LocalAgent
from ...configs.schema import TrainConfig
from ...envs import Job, RolloutResult, Trajectory, TurnEnv, make, write_trajectories
from ...envs.errors import UsageError
from ...envs.rollout import agent_seed, collect, make_jobs, run_async
from .. import credit, run_folder
from ..collate import collate
from ..loggers import open_loggers
from ..replay import ReplayBuffer, imitation_weight
from ..rewards import Models, RewardPipeline
from ..sampling import Refill, informative, top_p
from ..steps import (
    credit_metrics,
    evaluation_metrics,
    less_for_long,
    nothing_played,
    rollout_metrics,
    rows_in_loss,
)
from . import checkpoint, self_play
from . import model as models
from .critic import Critic
from .readings import with_entropy
from .update import TokenBatch, log_probs_of, update

AVAILABLE = frozenset({"state", "action", "observation", "entropy", "turn_of_token", *Critic.GIVES})
"""What the batches of this trainer can hold beside rewards; a scheme that needs more is refused at the start."""


def train(config: TrainConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train an agent and return the summary that also stands in the run's summary.json.

    Args:
        config: everything; with `config.resume` the run in that folder goes on under its own configuration, of which
            only `trainer.steps` may grow.
        say: gets a line at a time about what happens.

    Returns:
        `run` (folder), `before` and `after` (success on held-out test tasks with 95 % interval), `steps`, `seconds`.

    Raises:
        UsageError: a mistake in the configuration, before the first rollout; or a checkpoint that cannot be written.
    """
    began = time.perf_counter()
    resumed = config.resume is not None
    if config.resume is not None:
        folder, asked = Path(config.resume), config.trainer
        config = run_folder.reopen(folder)
        if "steps" in asked.model_fields_set:
            config.trainer.steps = max(asked.steps, config.trainer.steps)
    rewards = RewardPipeline(config.reward)
    env = make(
        config.env.id,
        **{
            "format": config.format.name,
            "system_prompt": config.format.system_prompt,
            **config.env.parameters,
        },
    )
    seats = self_play.checked(config.trainer.self_play, env)
    credit.check(config.credit.name, config.credit.parameters, AVAILABLE | rewards.provides | seats)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    device = _device(config.trainer.device)
    half = torch.bfloat16 if _half(config.trainer.dtype, device) else None
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=half is not None)
    # Without the copies of weights that autocast keeps: they would outlive the critic's own optimizer steps.
    afresh = torch.autocast(device.type, torch.bfloat16, enabled=half is not None, cache_enabled=False)

    if not resumed:
        folder = run_folder.create(config)
        say(f"run folder: {folder}")
    checkpoints = folder / "checkpoints"
    last = checkpoint.latest(checkpoints) if resumed else None
    state = checkpoint.load_state(last) if last is not None else None
    source = state["source"] if state else models.find(config.model, env, seed=config.seed, say=say)
    model, tokenizer = models.load(source, config.model, device=device, seed=config.seed, resume=last)
    model.eval()  # no dropout: the log-probs of the update are those of the rollout
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=config.trainer.lr, betas=(0.9, 0.99), weight_decay=config.trainer.weight_decay
    )
    reference = models.Reference(source, model, config.model, device) if config.loss.kl_coefficient else None
    agent = _agent(model, tokenizer, config, config.model.temperature, config.model.top_p)
    student = _agent(model, tokenizer, config, config.model.eval_temperature, 1.0)

    scheme = credit.spec(config.credit.name)
    needs = scheme.all_needs(config.credit.parameters)
    memory = credit.memory(config.credit.name, **config.credit.parameters)
    buffer = (
        ReplayBuffer[str](max_age=config.trainer.replay_max_age) if config.trainer.replay_episodes else None
    )
    if buffer is not None and scheme.level == "token":
        raise UsageError(
            f"trainer.replay_episodes needs a credit scheme per turn; {scheme.name} is per token"
        )
    critic = None
    if Critic.GIVES & set(needs):
        critic = Critic(
            source,
            agent.chat,
            env,
            device=device,
            lr=config.trainer.critic_lr,
            token_budget=config.trainer.token_budget,
            resume=last / "critic" if last is not None else None,
        )
    models_of_run = Models(
        env=env,
        policy=model,
        tokenizer=tokenizer,
        chat=agent.chat,
        agent=agent,
        device=device,
        token_budget=config.trainer.token_budget,
        max_context=config.model.max_context,
        temperature=config.model.temperature,
        lr=config.trainer.lr,
        steps=config.trainer.steps,
        seed=config.seed,
    )
    rewards.check(models_of_run)
    first = 1
    history: dict[str, Any] = {}
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        if memory is not None:
            memory.load_state_dict(state["memory"])
        if buffer is not None:
            buffer.load_state_dict(state["replay"])
        rewards.load_state_dict(state["rewards"])
        first, history = state["step"] + 1, state["history"]
        say(f"going on with {folder} at step {first}")

    def earlier(saved: Path | None) -> LocalAgent | None:
        """The policy of the last checkpoint, that of the start before there is one."""
        if config.trainer.self_play != "earlier":
            return None
        frozen, _ = models.load(source, config.model, device=device, seed=config.seed, resume=saved)
        return _agent(frozen.eval(), tokenizer, config, config.model.temperature, config.model.top_p)

    rival = earlier(last)

    def evaluate(split: str) -> dict[str, float]:
        with autocast:
            result = _evaluate(env, student, config, split)
        student.refresh()
        return evaluation_metrics(result)

    loggers = open_loggers(
        config.trainer.loggers,
        folder,
        config.model_dump(),
        from_step=first,
        steps=config.trainer.steps,
        say=say,
    )
    try:
        if "before" not in history:
            history["before"] = evaluate("test")
            say(f"before training: {_text(history['before'])} on held-out test tasks")

        for step in range(first, config.trainer.steps + 1):
            clock = _Clock()

            with clock("rollout"), autocast:
                rollout, dropped = _rollouts(env.at_step(step), agent, rival, config, step)

            with clock("reward"):
                batch = collate(rollout.trajectories)
                if config.trainer.overlong_buffer:
                    batch = less_for_long(batch, config.model.max_context, config.trainer.overlong_buffer)
                if batch.tokens is None or batch.action_mask is None:
                    raise UsageError(nothing_played(rollout, config, step))
                with autocast:
                    paid = run_async(
                        rewards.score(rollout.trajectories, batch, replace(models_of_run, step=step))
                    )
                earned, batch = batch.rewards, paid.batch
                agent.refresh()  # the weights are about to change

            if memory is not None:
                batch = memory.attach(batch)

            if "entropy" in needs:
                with clock("entropy"):
                    batch = with_entropy(
                        model,
                        batch,
                        temperature=config.model.temperature,
                        token_budget=config.trainer.token_budget,
                        autocast=half,
                    )

            critic_metrics: dict[str, float] = {}
            if critic is not None:
                with clock("critic"), afresh:
                    batch = critic.attach(batch, rollout.trajectories)
                    critic_metrics = critic.update(
                        batch,
                        credit.critic_targets(scheme.name, batch, **config.credit.parameters),
                        level=scheme.level,
                        epochs=config.trainer.critic_epochs,
                        max_grad_norm=config.trainer.max_grad_norm,
                    )

            with clock("credit"):
                advantage = credit.compute(config.credit.name, batch, **config.credit.parameters)
                if memory is not None:
                    memory.update(batch)
                if (
                    step == first
                    and rewards.provides
                    and not any(need.startswith("extra.") or need == "token_rewards" for need in needs)
                ):
                    unpaid = batch.unchecked(rewards=earned)
                    if torch.equal(
                        advantage, credit.compute(scheme.name, unpaid, **config.credit.parameters)
                    ):
                        say(
                            f"note: credit={scheme.name} reads the outcome alone, so {', '.join(rewards.names)} teach"
                            " nothing; turn_returns, gigpo, step_grpo or turn_gae read the rewards of turns"
                        )
                on_tokens = credit.spread(advantage, batch) if scheme.level == "turn" else advantage

                assert batch.tokens is not None and batch.action_mask is not None
                assert batch.turn_of_token is not None and batch.log_probs is not None
                rows = TokenBatch(
                    tokens=batch.tokens,
                    action_mask=batch.action_mask,
                    turn_of_token=batch.turn_of_token,
                    old_log_probs=batch.log_probs.float(),
                    advantages=on_tokens.float(),
                    row_mask=rows_in_loss(batch, config.trainer.mask_truncated),
                    row_to_trajectory=batch.row_to_trajectory,
                )
                replayed = _replayed(buffer, config, step) if buffer is not None else []
                if replayed:
                    rows = _joined(rows, replayed, _imitation(config, step))
                if buffer is not None:
                    mean = (advantage * batch.live).sum(1) / batch.turns.clamp(min=1)
                    lines = [t.to_json() for t in rollout.trajectories]
                    buffer.add(step, lines, batch.outcome.tolist(), mean.tolist())

            if reference is not None:
                with clock("reference"), reference.active():
                    rows = replace(
                        rows,
                        ref_log_probs=log_probs_of(
                            reference.model,
                            rows.tokens,
                            rows.action_mask,
                            temperature=config.model.temperature,
                            token_budget=config.trainer.token_budget,
                            autocast=half,
                        ),
                    )

            with clock("update"):
                for group in optimizer.param_groups:
                    group["lr"] = config.trainer.lr * min(1.0, step / max(1, config.trainer.warm_up_steps))
                metrics = update(
                    model,
                    optimizer,
                    rows,
                    config.loss,
                    temperature=config.model.temperature,
                    token_budget=config.trainer.token_budget,
                    minibatches=config.trainer.minibatches,
                    epochs=config.trainer.epochs,
                    max_grad_norm=config.trainer.max_grad_norm,
                    generator=torch.Generator().manual_seed(agent_seed(config.seed, step, "minibatches")),
                    autocast=half,
                    length=config.model.max_context,
                )

            every = config.trainer.eval_every
            if every and step % every == 0 and step < config.trainer.steps:
                with clock("eval"):
                    metrics |= {f"eval/{name}": value for name, value in evaluate("val").items()}

            every = config.trainer.save_trajectories_every
            if every and (step % every == 0 or step == 1):
                if scheme.level == "turn":
                    for t, row in zip(rollout.trajectories, advantage.tolist(), strict=True):
                        for turn, value in zip(t.turns, row, strict=False):
                            turn.advantage = value
                write_trajectories(folder / "trajectories" / f"step-{step}.jsonl", rollout.trajectories)

            metrics["dropped_episodes"] = float(dropped)
            if buffer is not None:
                metrics["replayed_episodes"] = float(len(replayed))
            metrics |= (
                rollout_metrics(rollout)
                | paid.metrics
                | critic_metrics
                | credit_metrics(batch, advantage, scheme.level)
            )
            metrics |= clock.metrics(rollout)
            for logger in loggers:
                logger.log(step, metrics)

            # After the metrics: whoever goes on from this checkpoint finds the line of its step.
            every = config.trainer.checkpoint_every
            if step == config.trainer.steps or (every and step % every == 0):
                saved = {
                    "step": step,
                    "source": source,
                    "optimizer": optimizer.state_dict(),
                    "history": history,
                    "rewards": rewards.state_dict(),
                    "memory": memory.state_dict() if memory is not None else None,
                    "replay": buffer.state_dict() if buffer is not None else None,
                }
                extra = {"critic": critic.save} if critic is not None else {}
                checkpoint.save(
                    checkpoints, step, model, tokenizer, saved, config.trainer.keep_checkpoints, extra
                )
                if step < config.trainer.steps:
                    rival = earlier(checkpoint.latest(checkpoints))
    finally:
        rewards.close()
        for logger in loggers:
            logger.close()

    after = evaluate("test")
    say(f"after training:  {_text(after)} on held-out test tasks")
    summary = {
        "run": str(folder),
        "env": config.env.id,
        "credit": config.credit.name,
        "rewards": rewards.in_words(),
        "seed": config.seed,
        "steps": config.trainer.steps,
        "episodes": config.trainer.steps * config.trainer.tasks_per_step * config.trainer.group_size,
        "before": history["before"],
        "after": after,
        "seconds": time.perf_counter() - began,
    }
    run_folder.write_summary(folder, summary)
    return summary


def _device(name: str) -> torch.device:
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"trainer.device={name!r} cannot be used: {error}") from error
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _half(dtype: str, device: torch.device) -> bool:
    return dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda")


def _agent(model: Any, tokenizer: Any, config: TrainConfig, temperature: float, top_p: float) -> LocalAgent:
    return LocalAgent(
        model,
        tokenizer,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=config.model.max_new_tokens,
        max_context=config.model.max_context,
        slots=config.trainer.concurrency,
        template_kwargs=config.model.template_kwargs,
    )


def _rollouts(
    env: TurnEnv, agent: LocalAgent, rival: LocalAgent | None, config: TrainConfig, step: int
) -> tuple[RolloutResult, int]:
    """The episodes of a step: `group_size` each for `tasks_per_step` tasks of the train split that pass the filter.

    In self-play with itself the policy learns from every seat, so that a step has the same number of episodes from fewer games.

    Returns them and how many episodes the filter dropped. Where no group passes, the last round is taken as it is: its
    credit is 0, and the step is seen in the metrics instead of missing.
    """
    trainer = config.trainer
    wanted = Refill[Trajectory](trainer.tasks_per_step, trainer.max_rounds)
    began = time.perf_counter()
    while not wanted.done:
        jobs = [
            Job(agent_seed(config.seed, step, wanted.rounds, "task", g) % 2**31, None, "train", g, sample)
            for g in range(self_play.tasks_of_step(trainer.self_play, env, trainer.tasks_per_step))
            for sample in range(trainer.group_size)
        ]
        seed = agent_seed(config.seed, step, wanted.rounds)
        options: dict[str, Any] = {"concurrency": trainer.concurrency, "timeout": trainer.episode_timeout}
        if trainer.self_play == "none":
            played = run_async(collect(env, agent, jobs, seed=seed, **options)).trajectories
        else:
            played = run_async(self_play.play(env, agent, rival, jobs, seed=seed, **options))
        outcome, group = [t.score for t in played], [t.group for t in played]
        valid = [t.status != "failed" for t in played]
        match trainer.filter:
            case "none":
                keep = [True] * len(played)
            case "informative":
                keep = informative(outcome, group, valid)
            case "top_p":
                keep = top_p(outcome, group, valid, p=trainer.filter_share)
        wanted.add(played, group, keep)
    kept = wanted.items or played
    for i, t in enumerate(kept):
        t.group = i // trainer.group_size  # groups of several rounds stay apart
    return RolloutResult(kept, time.perf_counter() - began), wanted.dropped


def _imitation(config: TrainConfig, step: int) -> float:
    return imitation_weight(
        step, warmup=config.trainer.replay_warm_up, coefficient=config.trainer.replay_coefficient
    )


def _replayed(buffer: ReplayBuffer[str], config: TrainConfig, step: int) -> list[tuple[Trajectory, float]]:
    """Trajectories of earlier steps to imitate, each with its present advantage."""
    draw = Random(agent_seed(config.seed, step, "replay"))
    found = buffer.sample(step, config.trainer.replay_episodes, draw)
    return [(Trajectory.from_json(r.item), r.advantage) for r in found]


def _joined(rows: TokenBatch, replayed: list[tuple[Trajectory, float]], weight: float) -> TokenBatch:
    """The rows with those of replayed trajectories behind them; their advantage is weighed here, and they enter no
    statistic: credit was computed before.
    """
    old = collate([t for t, _ in replayed])
    assert old.tokens is not None and old.action_mask is not None
    assert old.turn_of_token is not None and old.log_probs is not None
    assert rows.row_mask is not None and rows.row_to_trajectory is not None
    advantage = weight * torch.tensor([a for _, a in replayed])[:, None] * old.action_mask
    width = max(rows.tokens.shape[1], old.tokens.shape[1])

    def stacked(new: torch.Tensor, kept: torch.Tensor, fill: float) -> torch.Tensor:
        pad = torch.nn.functional.pad
        parts = (pad(x, (0, width - x.shape[1]), value=fill) for x in (new, kept.to(new)))
        return torch.cat(list(parts))

    last = int(rows.row_to_trajectory.max()) + 1
    return TokenBatch(
        tokens=stacked(rows.tokens, old.tokens, 0),
        action_mask=stacked(rows.action_mask, old.action_mask, False),
        turn_of_token=stacked(rows.turn_of_token, old.turn_of_token, -1),
        old_log_probs=stacked(rows.old_log_probs, old.log_probs, 0.0),
        advantages=stacked(rows.advantages, advantage, 0.0),
        row_mask=torch.cat([rows.row_mask, torch.ones(len(replayed), dtype=torch.bool)]),
        row_to_trajectory=torch.cat([rows.row_to_trajectory, last + torch.arange(len(replayed))]),
    )


def _evaluate(env: TurnEnv, student: LocalAgent, config: TrainConfig, split: str) -> RolloutResult:
    """Play the fixed panel of a split: the same tasks whatever the seed of the run."""
    jobs = make_jobs(env, config.trainer.eval_episodes, seed=0, split=split, tasks=None, group_size=1)
    return run_async(collect(env, student, jobs, seed=config.seed, concurrency=config.trainer.concurrency))


class _Clock:
    """Seconds by stage of one step."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._stages[stage] = self._stages.get(stage, 0.0) + time.perf_counter() - began

    def metrics(self, rollout: RolloutResult) -> dict[str, float]:
        turns = [turn for t in rollout.trajectories for turn in t.turns]
        sampled = sum(len(turn.action_ids) for turn in turns)
        read = sum(len(turn.prompt_ids) for turn in turns)
        env_seconds = sum(turn.env_seconds for turn in turns)
        total = time.perf_counter() - self._began
        figures = {f"seconds/{stage}": seconds for stage, seconds in self._stages.items()}
        figures["seconds/step"] = total
        figures["seconds/env"] = env_seconds
        figures["sampled_tokens_per_second"] = sampled / self._stages["rollout"]
        figures["tokens_per_second"] = (sampled + read) / total
        figures["env_steps_per_second"] = len(turns) / self._stages["rollout"]
        return figures


def _text(figures: dict[str, float]) -> str:
    return f"success {figures['success']:.3f} (95 % {figures['success_low']:.3f} to {figures['success_high']:.3f})"
