"""verl's V1 trainer with our stages: rewards, credit, loss weights, metrics, evaluation and checkpoints of turnwise.

verl rolls out, balances, computes log-probabilities and updates; between these the stages here rebuild the episodes of the
step from the stored rows and do with them what the local trainer does, by the same functions. Rows that verl adds as padding
are left out, and episodes are sorted by task and sample first, so neither padding nor order can change a number.
"""

from __future__ import annotations

import json
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from verl.single_controller.ray import RayClassWithInitArgs, RayWorkerGroup
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from ...configs.schema import TrainConfig
from ...envs import RolloutResult, Trajectory, TurnEnv, write_trajectories
from ...envs.errors import UsageError
from ...envs.rollout import agent_seed, make_jobs, run_async
from .. import credit
from ..batch import TurnBatch
from ..collate import collate
from ..local import checkpoint
from ..loggers import Logger
from ..losses import weights
from ..rewards import Models, RewardPipeline
from ..steps import (
    credit_metrics,
    evaluation_metrics,
    less_for_long,
    nothing_played,
    rollout_metrics,
    rows_in_loss,
)
from . import advantages, rows, tasks
from .adapters import merge_folder
from .agent_loop import RolloutFailed
from .loss import TURN, WEIGHT
from .process_rewards import TokenWorkers, WorkerInfoGain, WorkerPRM, coefficient_loss
from .watchdog import Watchdog
from .workers import FullWeightsWorker, PolicyWorker

POLL_SECONDS = 0.1
"""Between two looks at how many episodes have ended; verl has no setting for it, and 2 s."""

AVAILABLE = frozenset({"state", "action", "observation", "entropy", "turn_of_token"})
"""What the batches of this trainer can hold beside rewards; a scheme that needs more is refused at the start."""


@dataclass
class Run:
    """What a run is besides verl's part of it."""

    config: TrainConfig
    folder: Path
    source: str
    env: TurnEnv
    tokenizer: Any
    pipeline: RewardPipeline
    models: Models
    memory: credit.Memory | None
    loggers: Sequence[Logger]
    say: Callable[[str], None]
    watchdog: Watchdog
    last: Path | None = None
    """The checkpoint to go on from."""
    state: dict[str, Any] | None = None
    """Our part of it."""
    history: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Episodes:
    """The episodes of a step, sorted; `at[i]` is the row of episode i in verl's batch of `rows` rows."""

    trajectories: list[Trajectory]
    at: list[int]
    rows: int


def sorted_episodes(
    records: Sequence[dict[str, Any] | None], trajectories: Sequence[Trajectory | None]
) -> Episodes:
    """Episodes in the order of task and sample, whatever order the rows have; None stands for a padding row."""
    real = [i for i, record in enumerate(records) if record is not None]
    key = [(r["index"], r["sample"]) if r is not None else (0, 0) for r in records]
    at = sorted(real, key=lambda i: key[i])
    numbers = {index: n for n, index in enumerate(dict.fromkeys(key[i][0] for i in at))}
    found = []
    for i in at:
        trajectory = trajectories[i]
        assert trajectory is not None
        trajectory.group = numbers[key[i][0]]
        found.append(trajectory)
    return Episodes(found, at, len(records))


def minibatch_of_row(count: int, ranks: int, size: int) -> list[int]:
    """Which minibatch of verl's a row is in: every rank has an equal run of rows and cuts it from the front."""
    share, part = count // ranks, size // ranks
    return [(row % share) // part for row in range(count)]


def loss_weights(batch: TurnBatch, keep: Tensor, minibatch: Sequence[int], config: TrainConfig) -> Tensor:
    """[R, L] weight of each token in the loss of the minibatch that its row is in; 0 where `keep` [R] is false."""
    assert batch.action_mask is not None and batch.turn_of_token is not None
    found = torch.zeros(batch.action_mask.shape)
    of = torch.tensor(minibatch)
    for number in of.unique().tolist():
        chosen = (of == number).nonzero()[:, 0]
        found[chosen] = weights(
            batch.action_mask[chosen] & keep[chosen, None],
            batch.turn_of_token[chosen],
            config.loss.aggregation,
            length=config.model.max_context,
        )
    return found


class Stages:
    """Mixed in before a trainer class of verl's."""

    config: Any
    global_steps: int
    total_training_steps: int
    actor_rollout_wg: Any
    agent_loop_manager: Any
    replay_buffer: Any
    llm_server_manager: Any
    resource_pool_manager: Any
    train_dataloader: Any
    role_worker_mapping: dict[Any, Any]

    def __init__(self, config: Any, run: Run) -> None:
        self._run = run
        self._figures: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._episodes: Episodes | None = None
        self._probes: dict[str, Any] = {}
        self._looked = 0.0
        super().__init__(config)  # type: ignore[call-arg]

    # the start

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()  # type: ignore[misc]
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = ray.remote(self._policy_worker())

    def _policy_worker(self) -> type:
        if self._on_cpu:
            from .cpu import CpuPolicyWorker

            return CpuPolicyWorker
        return PolicyWorker

    @property
    def _on_cpu(self) -> bool:
        return bool(self._run.config.trainer.device == "cpu")

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        buffer.poll_interval = POLL_SECONDS
        wait = buffer._wait_for_next_poll

        def watched(partition: str, last: float) -> Any:
            done = len(buffer.partitions[partition])
            what = "evaluation" if partition == "val" else f"step {self.global_steps}"
            self._run.watchdog.waits(f"{what}: episodes ({done} have ended)", done)
            self._look_at_processes()
            return wait(partition, last)

        buffer._wait_for_next_poll = watched
        return buffer

    def _look_at_processes(self) -> None:
        """Raise Ray's error when a process that plays episodes is gone: nobody else would ever say so."""
        if time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        handles = {f"agent loop {i}": w for i, w in enumerate(self.agent_loop_manager.agent_loop_workers)}
        handles |= {f"rollout server {i}": h for i, h in enumerate(self.llm_server_manager.server_handles)}
        for name, handle in handles.items():
            probe = self._probes.get(name)
            if probe is not None:
                ended, _ = ray.wait([probe], timeout=0)
                if not ended:
                    continue
                ray.get(probe)
            self._probes[name] = handle.__ray_ready__.remote()

    def _setup(self) -> None:
        self._run.watchdog.waits("the workers of the policy to start")
        super()._setup()  # type: ignore[misc]
        for entry in self._run.pipeline.entries:
            if isinstance(entry.source, WorkerInfoGain):
                entry.source.workers = TokenWorkers(
                    self.actor_rollout_wg, mesh="actor", infer="compute_log_prob"
                )
            if isinstance(entry.source, WorkerPRM):
                self._run.watchdog.waits("the workers of the process reward model to start")
                self._start_prm(entry.source)

    def _start_prm(self, source: WorkerPRM) -> None:
        worker: type = FullWeightsWorker
        if self._on_cpu:
            from .cpu import CpuTrainingWorker

            worker = CpuTrainingWorker
        config = source.worker_config(self.config.actor_rollout_ref, self._run.config.trainer.lr)
        group = RayWorkerGroup(
            resource_pool=self.resource_pool_manager.resource_pool_dict["global_pool"],
            ray_cls_with_init=RayClassWithInitArgs(cls=ray.remote(worker), config=config),
            name_prefix="prm",
            device_name=self.config.trainer.device,
        )
        group.reset()
        group.set_loss_fn(coefficient_loss)
        source.workers = TokenWorkers(group, mesh="train", infer="infer_batch")
        run = self._run
        if run.last is not None and run.state is not None:
            folder = run.last / "verl" / "prm"
            if run.state["ranks"] == self._ranks:
                source.load(folder)
            else:
                group.load_full_weights(str(folder / "huggingface"))

    @property
    def _ranks(self) -> int:
        return int(self.config.trainer.nnodes * self.config.trainer.n_gpus_per_node)

    # a step

    def _step_once(
        self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int
    ) -> Any:
        self._figures, self._seconds = {}, {}
        return super()._step_once(metrics, timing_raw, sample_batch_size)  # type: ignore[misc]

    def _balance_batch(self, batch: Any, metrics: Any, **options: Any) -> Any:
        """Balance ranks as verl does, then shuffle the rows of each rank, so that minibatches are drawn at random."""
        batch = super()._balance_batch(batch, metrics, **options)  # type: ignore[misc]
        draw = torch.Generator().manual_seed(
            agent_seed(self._run.config.seed, self.global_steps, "minibatches")
        )
        share = len(batch) // self._ranks
        order = [
            r * share + i for r in range(self._ranks) for i in torch.randperm(share, generator=draw).tolist()
        ]
        batch.reorder(order)
        return batch

    def _compute_old_log_prob(self, batch: Any, metrics: Any) -> Any:
        self._waits("log-probabilities of the policy")
        return super()._compute_old_log_prob(batch, metrics)  # type: ignore[misc]

    def _compute_ref_log_prob(self, batch: Any, metrics: Any) -> Any:
        self._waits("log-probabilities of the reference")
        return super()._compute_ref_log_prob(batch, metrics)  # type: ignore[misc]

    def _compute_advantage(self, batch: Any, metrics: Any) -> Any:
        """Rewards, credit and the weights of the loss for the episodes of the step, written on their tokens."""
        self._waits("rewards and credit")
        config = self._run.config
        episodes, stored = self._rebuilt(batch, ["old_log_probs", "entropy"])
        self._episodes = episodes
        with self._clock("reward"):
            paid = self._paid(episodes, stored)
        with self._clock("credit"):
            if self._run.memory is not None:
                paid = self._run.memory.attach(paid)
            scheme = credit.spec(config.credit.name)
            advantage = credit.compute(scheme.name, paid, **config.credit.parameters)
            if self._run.memory is not None:
                self._run.memory.update(paid)
            on_tokens = credit.spread(advantage, paid) if scheme.level == "turn" else advantage
            if scheme.level == "turn":
                for t, row in zip(episodes.trajectories, advantage.tolist(), strict=True):
                    for turn, value in zip(t.turns, row, strict=False):
                        turn.advantage = value
            self._figures |= credit_metrics(paid, advantage, scheme.level)
            assert paid.turn_of_token is not None and paid.action_mask is not None
            minibatch = minibatch_of_row(
                episodes.rows,
                self._ranks,
                config.trainer.tasks_per_step // config.trainer.minibatches * config.trainer.group_size,
            )
            keep = rows_in_loss(paid, config.trainer.mask_truncated)
            share = loss_weights(paid, keep, [minibatch[i] for i in episodes.at], config)
            live = on_tokens[(share > 0)]
            self._figures["zero_advantage"] = (live == 0).float().mean().item()
            self._signal = bool((live != 0).any())
            columns = {
                WEIGHT: self._in_rows(share, episodes),
                TURN: self._in_rows(torch.where(paid.action_mask, paid.turn_of_token, 0), episodes),
            }
            batch = tq.kv_batch_put(
                keys=batch.keys,
                partition_id=batch.partition_id,
                fields=TensorDict(
                    {
                        name: torch.nested.as_nested_tensor(values, layout=torch.jagged)
                        for name, values in columns.items()
                    },
                    batch_size=len(batch),
                ),
            )
        with advantages.given(self._in_rows(on_tokens.float(), episodes)):
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]

    def _paid(self, episodes: Episodes, stored: dict[str, list[Tensor]]) -> TurnBatch:
        """The batch of the step with every reward paid; also figures of the rollout."""
        config, trajectories = self._run.config, episodes.trajectories
        rollout = RolloutResult(trajectories, 0.0)
        batch = collate(trajectories)
        if config.trainer.overlong_buffer:
            batch = less_for_long(batch, config.model.max_context, config.trainer.overlong_buffer)
        if batch.tokens is None or batch.action_mask is None:
            raise UsageError(nothing_played(rollout, config, self.global_steps))
        self._figures |= rollout_metrics(rollout)
        assert batch.log_probs is not None and batch.turn_tokens is not None
        old, entropy = (
            self._on_batch(stored.get(name), batch, episodes) for name in ("old_log_probs", "entropy")
        )
        if old is not None:
            gap = (old - batch.log_probs)[batch.action_mask].abs()
            self._figures |= {"gap_mean": gap.mean().item(), "gap_max": gap.max().item()}
        if entropy is not None:
            self._figures["entropy"] = entropy[batch.action_mask].mean().item()
            batch = batch.unchecked(entropy=_turn_means(entropy, batch))
        models = replace(self._run.models, step=self.global_steps)
        paid = run_async(self._run.pipeline.score(trajectories, batch, models))
        self._figures |= paid.metrics
        return paid.batch

    def _update_actor(self, batch: Any, metrics: Any) -> Any:
        """One pass of verl's update with our loss; a step in which nothing has a gradient makes none."""
        self._waits("the update")
        config = self._run.config
        if not (self._signal or config.loss.kl_coefficient or config.loss.entropy_coefficient):
            self._figures |= {"optimizer_steps": 0.0, "skipped_steps": 0.0, "trained_tokens": 0.0}
            return batch
        size = config.trainer.tasks_per_step // config.trainer.minibatches * config.trainer.group_size
        batch.extra_info.update(
            calculate_entropy=bool(config.loss.entropy_coefficient),
            distillation_use_topk=False,
            distillation_only=False,
            global_batch_size=size,
            mini_batch_size=size,
            epochs=config.trainer.epochs,
            seed=0,
            dataloader_kwargs={"shuffle": False},
            temperature=config.model.temperature,
        )
        found = self.actor_rollout_wg.update_actor(batch)
        self._figures |= update_metrics(found["metrics"])
        return batch

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        """Log the step under the names of the local trainer, and keep its episodes."""
        assert self._episodes is not None
        trajectories, trainer = self._episodes.trajectories, self._run.config.trainer
        every = trainer.save_trajectories_every
        if every and (global_steps % every == 0 or global_steps == 1):
            write_trajectories(self._run.folder / "trajectories" / f"step-{global_steps}.jsonl", trajectories)
        figures = self._figures | {"dropped_episodes": 0.0}
        if global_steps < self.total_training_steps:
            figures |= {name: value for name, value in metrics.items() if name.startswith("eval/")}
        turns = [turn for t in trajectories for turn in t.turns]
        sampled = sum(len(turn.action_ids) for turn in turns)
        read = sum(len(turn.prompt_ids) for turn in turns)
        seconds = {ours: timing_raw[verls] for verls, ours in _STAGES.items() if verls in timing_raw}
        seconds |= self._seconds
        total, rollout = timing_raw["step"] + timing_raw.get("testing", 0.0), timing_raw["gen"]
        figures |= {f"seconds/{stage}": value for stage, value in seconds.items()}
        figures |= {
            "seconds/step": total,
            "seconds/env": sum(turn.env_seconds for turn in turns),
            "sampled_tokens_per_second": sampled / rollout,
            "tokens_per_second": (sampled + read) / total,
            "env_steps_per_second": len(turns) / rollout,
        }
        for logger in self._run.loggers:
            logger.log(global_steps, {name: float(value) for name, value in figures.items()})
        self._waits("the next step")

    # evaluation

    def _validate(self) -> dict[str, float]:
        """The test panel before and after training, the validation panel in between."""
        history, say = self._run.history, self._run.say
        if "before" not in history:
            history["before"] = figures = self.evaluate("test")
            say(f"before training: {in_words(figures)} on held-out test tasks")
        elif self.global_steps >= self.total_training_steps:
            history["after"] = figures = self.evaluate("test")
        else:
            figures = self.evaluate("val")
        return {f"eval/{name}": value for name, value in figures.items()}

    def evaluate(self, split: str) -> dict[str, float]:
        """Play the fixed panel of a split on the rollout servers."""
        config = self._run.config
        jobs = make_jobs(
            self._run.env, config.trainer.eval_episodes, seed=0, split=split, tasks=None, group_size=1
        )
        items = [tasks.row(job, index=i, seed=config.seed) for i, job in enumerate(jobs)]
        panel = collate_fn(items)
        panel["uid"] = np.array([str(uuid.uuid4()) for _ in items], dtype=object)
        data = tu.get_tensordict(panel)
        tu.assign_non_tensor_data(data, "global_steps", self.global_steps)
        tu.assign_non_tensor_data(data, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": self.global_steps} for _ in items]
        tq.kv_batch_put(keys=list(panel["uid"]), partition_id="val", tags=tags)
        self.agent_loop_manager.generate_sequences(data)
        batch, _ = self.replay_buffer.sample(
            global_steps=self.global_steps, partition_id="val", batch_size=len(items)
        )
        episodes, _ = self._rebuilt(batch, [])
        tq.kv_clear(keys=batch.keys, partition_id="val")
        result = RolloutResult(episodes.trajectories, 0.0)
        return evaluation_metrics(result)

    # checkpoints

    def _save_checkpoint(self) -> None:
        """A folder as the local trainer writes it, with verl's shards in `verl/`: whole or not at all."""
        self._waits("the checkpoint")
        run = self._run
        state = {
            "step": self.global_steps,
            "source": run.source,
            "history": run.history,
            "rewards": run.pipeline.state_dict(),
            "memory": run.memory.state_dict() if run.memory is not None else None,
            "ranks": self._ranks,
        }
        checkpoint.save(
            run.folder / "checkpoints",
            self.global_steps,
            _Weights(self._write_shards),
            run.tokenizer,
            state,
            run.config.trainer.keep_checkpoints,
        )

    def _write_shards(self, folder: Path) -> None:
        """Verl's own checkpoint in `folder/verl`, its Hugging Face files in `folder`."""
        parent = self.config.trainer.default_local_dir
        self.config.trainer.default_local_dir = str(folder / "scratch")
        try:
            super()._save_checkpoint()  # type: ignore[misc]
        finally:
            self.config.trainer.default_local_dir = parent
        shards = folder / "verl"
        (folder / "scratch" / f"global_step_{self.global_steps}").rename(shards)
        shutil.rmtree(folder / "scratch")
        for file in (shards / "actor" / "huggingface").iterdir():
            file.rename(folder / file.name)
        (shards / "actor" / "huggingface").rmdir()
        model = self._run.config.model
        if model.lora_rank:
            merge_folder(folder, rank=model.lora_rank, alpha=model.lora_alpha)
        _true_dtype(folder)
        for entry in self._run.pipeline.entries:
            if isinstance(entry.source, WorkerPRM):
                entry.source.save(shards / "prm", self.global_steps)

    def _load_checkpoint(self) -> None:
        """Go on from the run's last whole checkpoint, if there is one."""
        self.global_steps = 0
        run = self._run
        if run.last is None or run.state is None:
            return
        self.global_steps = int(run.state["step"])
        if run.state["ranks"] == self._ranks:
            self.actor_rollout_wg.load_checkpoint(local_path=str(run.last / "verl" / "actor"))
        else:
            self.actor_rollout_wg.load_full_weights(str(run.last))
            run.say(
                f"the checkpoint is of {run.state['ranks']} ranks and this run has {self._ranks}: weights are taken over, the"
                " optimizer begins anew"
            )
        position = torch.load(run.last / "verl" / "data.pt", weights_only=False)
        self.train_dataloader.load_state_dict(position)

    # between verl's rows and our episodes

    def _rebuilt(self, batch: Any, fields: Sequence[str]) -> tuple[Episodes, dict[str, list[Tensor]]]:
        """The episodes of verl's batch, and those of the fields that it has, by row."""
        if not batch.keys:
            raise RolloutFailed(
                "no episode came back from the agent loops; Ray's logs say why: /tmp/ray/session_latest/logs"
            )
        names = ["prompts", "responses", "rollout_log_probs", "extra_fields"]
        names += [name for name in fields if batch.fields is None or name in batch.fields]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        columns = {name: list(data[name].unbind()) for name in names if name != "extra_fields"}
        records: list[dict[str, Any] | None] = []
        trajectories: list[Trajectory | None] = []
        for i, (tag, extra) in enumerate(zip(batch.tags, list(data["extra_fields"]), strict=True)):
            if tag.get("is_padding", False):
                records.append(None)
                trajectories.append(None)
                continue
            record = json.loads(getattr(extra, "data", extra)["turnwise"])
            if record["mistake"] is not None:
                raise UsageError(f"an episode could not be played: {record['mistake']}")
            records.append(record)
            trajectories.append(
                rows.to_trajectory(
                    record, columns["prompts"][i], columns["responses"][i], columns["rollout_log_probs"][i]
                )
            )
        return sorted_episodes(records, trajectories), columns

    def _in_rows(self, values: Tensor, episodes: Episodes) -> list[Tensor]:
        """What stands on the tokens of a batch, [R, L], as one tensor per row of verl's; padding rows get a 0."""
        found = [torch.zeros(1, dtype=values.dtype)] * episodes.rows
        for i, value in zip(episodes.at, rows.responses(values, episodes.trajectories), strict=True):
            found[i] = value
        return found

    def _on_batch(self, stored: list[Tensor] | None, batch: TurnBatch, episodes: Episodes) -> Tensor | None:
        """The other way: [R, L] from one tensor per row of verl's."""
        if stored is None:
            return None
        assert batch.tokens is not None
        found = torch.zeros(batch.tokens.shape)
        for n, (i, t) in enumerate(zip(episodes.at, episodes.trajectories, strict=True)):
            if t.status != "failed" and t.turns:
                start = len(t.turns[0].prompt_ids)
                found[n, start : start + len(stored[i])] = stored[i].float()
        return found

    def _waits(self, what: str) -> None:
        self._run.watchdog.waits(f"step {self.global_steps}: {what}")

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - began


class SyncTrainer(Stages, PPOTrainerSync):  # type: ignore[misc]  # verl has no types
    """Rollout and update in turn, on the same devices."""


_STAGES = {
    "gen": "rollout",
    "old_log_prob": "log_probs",
    "ref": "reference",
    "update_actor": "update",
    "update_weights": "weights",
    "save_checkpoint": "checkpoint",
    "testing": "eval",
}
"""verl's names of stages and ours."""


class _Weights:
    """What `checkpoint.save` takes for a model."""

    def __init__(self, write: Callable[[Path], None]) -> None:
        self.save_pretrained = write


def update_metrics(found: dict[str, Any]) -> dict[str, float]:
    """The metrics of an update from what the workers sent: by name, one number per optimizer step."""
    steps = len(np.atleast_1d(found["grad_norm"]))
    sums = {
        name.removeprefix("sum/"): float(np.sum(value))
        for name, value in found.items()
        if name.startswith("sum/")
    }
    tokens = sums.pop("tokens")
    norms = [float(n) for n in np.atleast_1d(found["grad_norm"])]
    finite = [n for n in norms if math.isfinite(n)]
    per_token = {"ratio": "ratio_mean"}
    figures = {name: sums.pop(name) / steps for name in ("loss", "policy_loss")}
    figures |= {
        per_token.get(name, name): value / tokens if tokens else math.nan for name, value in sums.items()
    }
    return figures | {
        "ratio_max": float(np.max(found["ratio_max"])),
        "gradient_norm": sum(finite) / len(finite) if finite else math.nan,
        "optimizer_steps": float(len(finite)),
        "skipped_steps": float(len(norms) - len(finite)),
        "trained_tokens": tokens,
    }


def _turn_means(values: Tensor, batch: TurnBatch) -> Tensor:
    """[B, K]: the mean of [R, L] over the action tokens of each turn."""
    assert batch.action_mask is not None and batch.turn_of_token is not None
    assert batch.row_to_trajectory is not None and batch.turn_tokens is not None
    total = torch.zeros(batch.rewards.shape)
    owner = batch.row_to_trajectory[:, None].expand_as(batch.action_mask)[batch.action_mask]
    total.index_put_(
        (owner, batch.turn_of_token[batch.action_mask]), values[batch.action_mask], accumulate=True
    )
    return total / batch.turn_tokens.clamp(min=1)


def _true_dtype(folder: Path) -> None:
    """Let config.json name the type that the weights are stored in; verl always writes bfloat16 there."""
    from safetensors import safe_open

    path = folder / "config.json"
    config = json.loads(path.read_text())
    shard = sorted(folder.glob("*.safetensors"))[0]
    with safe_open(shard, framework="pt") as file:
        stored = str(file.get_tensor(next(iter(file.keys()))).dtype).removeprefix("torch.")
    for key in {"dtype", "torch_dtype"} & config.keys():
        config[key] = stored
    path.write_text(json.dumps(config, indent=2) + "\n")


def in_words(figures: dict[str, float]) -> str:
    """Success and its interval, for the run's own lines."""
    return f"success {figures['success']:.3f} (95 % {figures['success_low']:.3f} to {figures['success_high']:.3f})"
