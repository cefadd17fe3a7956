"""From our configuration to verl's: every value that we decide, and the refusal of what cannot work together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...configs.schema import TrainConfig
from ...envs.errors import UsageError
from . import advantages, agent_loop

OPEN = (
    "actor_rollout_ref.model.override_config",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "actor_rollout_ref.rollout.engine_kwargs",
    "actor_rollout_ref.rollout.checkpoint_engine.engine_kwargs",
    "actor_rollout_ref.actor.optim.override_optimizer_config",
    "ray_kwargs.ray_init",
    "transfer_queue",
    "data.apply_chat_template_kwargs",
)
"""Where verl takes keys that its own files do not name."""

OURS = {
    "algorithm.adv_estimator": "credit=NAME",
    "algorithm.use_kl_in_reward": "loss.kl_coefficient (a KL in the reward of tokens would not reach a scheme that pays turns)",
    "algorithm.gamma": "credit.gamma",
    "algorithm.filter_groups.enable": "nothing: groups are not filtered with trainer=verl",
    "actor_rollout_ref.model.path": "model.path",
    "actor_rollout_ref.model.lora_rank": "model.lora_rank",
    "actor_rollout_ref.actor.ppo_mini_batch_size": "trainer.minibatches",
    "actor_rollout_ref.actor.ppo_epochs": "trainer.epochs",
    "actor_rollout_ref.actor.use_kl_loss": "loss.kl_coefficient",
    "actor_rollout_ref.actor.kl_loss_coef": "loss.kl_coefficient",
    "actor_rollout_ref.actor.kl_loss_type": "loss.kl",
    "actor_rollout_ref.actor.entropy_coeff": "loss.entropy_coefficient",
    "actor_rollout_ref.actor.loss_agg_mode": "loss.aggregation",
    "actor_rollout_ref.actor.policy_loss.loss_mode": "loss.ratio",
    "actor_rollout_ref.actor.shuffle": "nothing: the trainer shuffles",
    "actor_rollout_ref.actor.use_dynamic_bsz": "trainer.token_budget",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": "trainer.token_budget",
    "actor_rollout_ref.actor.optim.lr": "trainer.lr",
    "actor_rollout_ref.rollout.n": "trainer.group_size",
    "actor_rollout_ref.rollout.temperature": "model.temperature",
    "actor_rollout_ref.rollout.agent.default_agent_loop": "nothing: the environment is played by turnwise",
    "critic.enable": "nothing: there is no critic with trainer=verl",
    "data.train_files": "env=NAME",
    "data.val_files": "env=NAME",
    "data.train_batch_size": "trainer.tasks_per_step",
    "data.custom_cls.path": "env=NAME",
    "data.shuffle": "seed",
    "data.seed": "seed",
    "reward.num_workers": "reward=[...]",
    "trainer.default_local_dir": "run=FOLDER",
    "trainer.device": "trainer.device",
    "trainer.logger": "trainer.loggers",
    "trainer.n_gpus_per_node": "trainer.ranks_per_node",
    "trainer.nnodes": "trainer.nodes",
    "trainer.resume_mode": "resume=RUN",
    "trainer.save_freq": "trainer.checkpoint_every",
    "trainer.test_freq": "trainer.eval_every",
    "trainer.total_epochs": "trainer.steps",
    "trainer.total_training_steps": "trainer.steps",
    "trainer.use_v1": "nothing: only the V1 trainer runs our stages",
    "trainer.v1.trainer_mode": "nothing: only the mode sync is supported",
}
"""Keys of verl's that one of ours decides, and which."""


def ranks(config: TrainConfig) -> int:
    """Training processes of a run."""
    return config.trainer.nodes * config.trainer.ranks_per_node


def check(config: TrainConfig) -> None:
    """Refuse what this engine cannot do, before anything starts.

    Raises:
        UsageError: what, and what to do instead.
    """
    trainer = config.trainer
    for key, off, instead in (
        ("self_play", "none", "Use trainer=local."),
        ("filter", "none", "Use trainer=local, or leave it out: groups without a signal get credit 0."),
        ("max_rounds", 1, "It goes with trainer.filter."),
        ("replay_episodes", 0, "Use trainer=local."),
    ):
        if getattr(trainer, key) != off:
            raise UsageError(
                f"trainer.{key}={getattr(trainer, key)} does not work with trainer=verl. {instead}"
            )
    if trainer.tasks_per_step % trainer.minibatches:
        raise UsageError(
            f"trainer=verl cuts the tasks of a step into minibatches of whole groups: trainer.tasks_per_step="
            f"{trainer.tasks_per_step} must be a multiple of trainer.minibatches={trainer.minibatches}"
        )
    rows = trainer.tasks_per_step // trainer.minibatches * trainer.group_size
    if rows % ranks(config):
        raise UsageError(
            f"a minibatch of {rows} episodes (tasks_per_step / minibatches * group_size) cannot be shared by"
            f" {ranks(config)} ranks (nodes * ranks_per_node); make it a multiple"
        )
    if trainer.device == "cpu":
        if config.model.lora_rank:
            raise UsageError(
                "model.lora_rank does not work with trainer=verl trainer.device=cpu: verl merges adapters in bfloat16"
                " before it sends the weights. Use trainer=local, or a GPU"
            )
        if trainer.dtype == "bfloat16":
            raise UsageError("trainer=verl trainer.device=cpu computes in float32; leave trainer.dtype out")
        if trainer.nodes > 1:
            raise UsageError("trainer.device=cpu runs on one machine; leave trainer.nodes out")
    elif not torch.cuda.is_available() and "address" not in config.verl.get("ray_kwargs", {}).get(
        "ray_init", {}
    ):
        raise UsageError(
            f"trainer=verl trainer.device={trainer.device} needs a GPU, and torch sees none here. For a run on the CPU set"
            " trainer.device=cpu; for a Ray cluster that is already there set verl.ray_kwargs.ray_init.address=auto"
        )
    given = dict(_leaves(config.verl))
    for key in given:
        if key in OURS:
            raise UsageError(f"verl.{key} is decided by turnwise; set {OURS[key]}")


def compose(config: TrainConfig, *, source: str, folder: Path, imports: Sequence[str]) -> DictConfig:
    """Verl's configuration of a run.

    Args:
        config: ours, checked.
        source: name or folder of the model to start from.
        folder: of the run.
        imports: modules and files that register environments.

    Raises:
        UsageError: `verl.KEY` names a key that verl 0.9.1 does not have.
    """
    import verl.trainer.config as of_verl

    with hydra.initialize_config_dir(str(Path(of_verl.__file__).parent), version_base=None):
        composed = hydra.compose("ppo_trainer")
    OmegaConf.set_struct(composed, False)
    loss = config.loss.model_dump_json()
    values = _values(config, source, folder)
    if config.trainer.device == "cpu":
        values |= _on_cpu(config)
    for key, value in values.items():
        OmegaConf.update(composed, key, value, force_add=True)
    for key, value in _leaves(config.verl):
        _known(composed, key)
        try:
            OmegaConf.update(composed, key, value, force_add=True)
        except OmegaConfBaseException as error:
            raise UsageError(f"verl.{key}={value!r} is wrong: {str(error).splitlines()[0]}") from error
    whole = config.model_dump_json()
    composed.turnwise = {"config": whole, "imports": list(imports), "source": source}
    composed.data.turnwise = whole
    composed.actor_rollout_ref.turnwise_loss = loss
    return composed


def _values(config: TrainConfig, source: str, folder: Path) -> dict[str, Any]:
    trainer, model = config.trainer, config.model
    never = 10**9
    budget = max(trainer.token_budget, model.max_context)
    prompt = model.max_context // 2
    return {
        "algorithm.adv_estimator": advantages.NAME,
        "actor_rollout_ref.model.path": source,
        "actor_rollout_ref.model.lora_rank": model.lora_rank,
        "actor_rollout_ref.model.lora_alpha": model.lora_alpha,
        "actor_rollout_ref.model.lora.merge": True,
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.actor.fsdp_config.strategy": "fsdp2",
        "actor_rollout_ref.ref.strategy": "fsdp2",
        "actor_rollout_ref.ref.fsdp_config.strategy": "fsdp2",
        "actor_rollout_ref.actor.ppo_mini_batch_size": trainer.tasks_per_step // trainer.minibatches,
        "actor_rollout_ref.actor.ppo_epochs": trainer.epochs,
        "actor_rollout_ref.actor.use_dynamic_bsz": True,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": budget,
        "actor_rollout_ref.actor.use_kl_loss": bool(config.loss.kl_coefficient),
        "actor_rollout_ref.actor.entropy_coeff": config.loss.entropy_coefficient,
        "actor_rollout_ref.actor.optim.lr": trainer.lr,
        "actor_rollout_ref.actor.optim.betas": [0.9, 0.99],
        "actor_rollout_ref.actor.optim.weight_decay": trainer.weight_decay,
        "actor_rollout_ref.actor.optim.lr_warmup_steps": trainer.warm_up_steps,
        "actor_rollout_ref.actor.optim.clip_grad": trainer.max_grad_norm,
        "actor_rollout_ref.actor.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        "actor_rollout_ref.actor.checkpoint.load_contents": ["model", "optimizer", "extra"],
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.n": trainer.group_size,
        "actor_rollout_ref.rollout.temperature": model.temperature,
        "actor_rollout_ref.rollout.top_p": model.top_p,
        "actor_rollout_ref.rollout.top_k": -1,
        "actor_rollout_ref.rollout.val_kwargs.temperature": model.eval_temperature,
        "actor_rollout_ref.rollout.val_kwargs.do_sample": model.eval_temperature > 0,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "actor_rollout_ref.rollout.max_model_len": model.max_context,
        "actor_rollout_ref.rollout.calculate_log_probs": True,
        "actor_rollout_ref.rollout.agent.default_agent_loop": agent_loop.NAME,
        "data.custom_cls.path": f"pkg://{__package__}.tasks",
        "data.custom_cls.name": "EnvTasks",
        "data.train_files": [],
        "data.val_files": [],
        "data.train_batch_size": trainer.tasks_per_step,
        "data.max_prompt_length": prompt,
        "data.max_response_length": model.max_context - prompt,
        "data.shuffle": False,
        "data.dataloader_num_workers": 0,
        "reward.num_workers": 0,  # rewards are computed by the trainer
        "trainer.device": "cpu" if trainer.device == "cpu" else "cuda",
        "trainer.nnodes": trainer.nodes,
        "trainer.n_gpus_per_node": trainer.ranks_per_node,
        "trainer.logger": [],
        "trainer.total_training_steps": trainer.steps,
        "trainer.total_epochs": 1,
        "trainer.save_freq": trainer.checkpoint_every or never,
        "trainer.test_freq": trainer.eval_every or never,
        "trainer.default_local_dir": str(folder),
        "trainer.resume_mode": "disable",  # ours, which passes over checkpoints that are not whole
        "trainer.v1.trainer_mode": "sync",
        "transfer_queue.enable": True,
        **(_full_precision() if trainer.dtype == "float32" else {}),
    }


def _full_precision() -> dict[str, Any]:
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    return {
        "actor_rollout_ref.actor.fsdp_config.mixed_precision": precision,
        "actor_rollout_ref.ref.fsdp_config.mixed_precision": precision,
        "actor_rollout_ref.actor.fsdp_config.dtype": "float32",
        "actor_rollout_ref.ref.fsdp_config.dtype": "float32",
        "actor_rollout_ref.actor.fsdp_config.model_dtype": "fp32",
        "actor_rollout_ref.ref.fsdp_config.model_dtype": "fp32",
        "actor_rollout_ref.rollout.dtype": "float32",
    }


def _on_cpu(config: TrainConfig) -> dict[str, Any]:
    from . import cpu

    return {
        **_full_precision(),
        "actor_rollout_ref.model.use_remove_padding": False,
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.actor.use_torch_compile": False,
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.use_torch_compile": False,
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.rollout.name": cpu.NAME,
        "actor_rollout_ref.rollout.max_num_seqs": config.trainer.concurrency,
        "actor_rollout_ref.rollout.agent.num_workers": 1,
        # Ray and verl count GPUs; here a GPU is a process. A worker group asks for 3 CPUs per rank.
        "ray_kwargs.ray_init.num_gpus": ranks(config),
        "ray_kwargs.ray_init.num_cpus": 16 + 4 * ranks(config),
        "ray_kwargs.ray_init.include_dashboard": False,
        "ray_kwargs.ray_init.object_store_memory": 300_000_000,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    }


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _known(composed: DictConfig, key: str) -> None:
    """Refuse a key that verl's own files do not have, except where verl takes any."""
    if key.startswith(tuple(f"{place}." for place in OPEN)):
        return
    owner: Any = composed
    parts = key.split(".")
    for i, part in enumerate(parts):
        names = [str(k) for k in owner] if isinstance(owner, DictConfig) else []
        if part not in names:
            near = get_close_matches(part, names, n=1, cutoff=0.5)
            path = ".".join(parts[:i])
            hint = f" Did you mean 'verl.{'.'.join([*parts[:i], near[0]])}'?" if near else ""
            raise UsageError(
                f"verl 0.9.1 has no key {key!r}: {path or 'its configuration'} has {', '.join(names) or 'no keys'}.{hint}"
            )
        owner = OmegaConf.select(composed, ".".join(parts[: i + 1]), throw_on_missing=False)


def as_json(composed: DictConfig) -> str:
    """Verl's configuration as text, to be kept with the run."""
    return json.dumps(OmegaConf.to_container(composed, resolve=True), indent=2, default=str)
