"""A run of `trainer=verl`: check everything, start Ray, let verl's trainer run our stages, and leave nothing behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from ...agents.chat import ChatTokenizer
from ...configs.schema import TrainConfig
from ...envs import make
from ...envs.errors import TurnwiseError, UsageError
from .. import credit, run_folder
from ..local import checkpoint
from ..local import model as models
from ..loggers import open_loggers
from ..rewards import Models, RewardPipeline
from ..rewards.pipeline import SETTINGS
from . import names, settings
from .agent_loop import load_modules
from .process_rewards import WorkerInfoGain, WorkerPRM
from .trainer import AVAILABLE, Run, SyncTrainer, in_words
from .watchdog import Stalled, Watchdog

ON_WORKERS = {"info_gain": WorkerInfoGain, "implicit_prm": WorkerPRM}
"""Sources whose model is on the workers, and what takes their place."""


class RunLost(TurnwiseError, RuntimeError):
    """A process of the run is gone, or it made no progress; the run can be resumed."""


def train(
    config: TrainConfig, *, say: Callable[[str], None] = print, imports: Sequence[str] = ()
) -> dict[str, Any]:
    """Train on a Ray cluster and return the summary; arguments and result are those of `local.train.train`.

    Args:
        config: everything; with `config.resume` the run in that folder goes on.
        say: gets a line at a time about what happens.
        imports: modules and files that register environments, for the processes of the cluster.

    Raises:
        UsageError: a mistake in the configuration, before Ray starts; every episode of a step failed; a checkpoint cannot
            be written.
        RunLost: a process died, or there was no progress for `trainer.stall_timeout`.
    """
    began = time.perf_counter()
    names.check()
    resumed = config.resume is not None
    if config.resume is not None:
        folder, asked = Path(config.resume), config.trainer
        config = run_folder.reopen(folder)
        if "steps" in asked.model_fields_set:
            config.trainer.steps = max(asked.steps, config.trainer.steps)
        for key in ("nodes", "ranks_per_node"):
            if key in asked.model_fields_set:
                setattr(config.trainer, key, getattr(asked, key))
    settings.check(config)
    pipeline = _on_workers(RewardPipeline(config.reward), config)
    credit.check(config.credit.name, config.credit.parameters, AVAILABLE | pipeline.provides)
    imports = [str(Path(name).resolve()) if name.endswith(".py") else name for name in imports]
    load_modules(imports)
    env = make(
        config.env.id,
        **{
            "format": config.format.name,
            "system_prompt": config.format.system_prompt,
            **config.env.parameters,
        },
    )
    if env.at_step(1) is not env:
        raise UsageError(
            f"{config.env.id} changes by a schedule over training steps, which trainer=verl does not follow; use trainer=local, or "
            "an environment without a schedule"
        )
    torch.set_num_threads(max(1, config.trainer.threads))

    if not resumed:
        folder = run_folder.create(config)
        say(f"run folder: {folder}")
    last = checkpoint.latest(folder / "checkpoints") if resumed else None
    state = checkpoint.load_state(last) if last is not None else None
    if state is not None and config.model.lora_rank and state["ranks"] != settings.ranks(config):
        raise UsageError(
            f"the checkpoint of {folder} is of {state['ranks']} ranks and has adapters, which go on with as many ranks alone;"
            " leave trainer.nodes and trainer.ranks_per_node as they were"
        )
    source = state["source"] if state else models.find(config.model, env, seed=config.seed, say=say)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the model {source!r} could not be loaded: {error}. model.path takes a Hugging Face name, a folder with"
            " config.json, weights and tokenizer, or a run folder"
        ) from error
    chat = ChatTokenizer(tokenizer, template_kwargs=config.model.template_kwargs)
    if config.trainer.device == "cpu" and chat.stop_strings:
        raise UsageError(
            f"the chat template of {source} ends a message with the text {chat.stop_strings[0]!r}, not with a token, and the"
            " rollout server on a CPU knows tokens only; use trainer=local, or a GPU"
        )
    of_run = Models(
        env=env,
        tokenizer=tokenizer,
        chat=chat,
        token_budget=config.trainer.token_budget,
        max_context=config.model.max_context,
        temperature=config.model.temperature,
        lr=config.trainer.lr,
        steps=config.trainer.steps,
        seed=config.seed,
    )
    pipeline.check(of_run)
    composed = settings.compose(config, source=source, folder=folder, imports=imports)
    composed.trainer.val_before_train = state is None or "before" not in state["history"]
    _validated(composed)
    run_folder.write_text(folder / "verl.json", settings.as_json(composed) + "\n")

    first = 1
    memory = credit.memory(config.credit.name, **config.credit.parameters)
    if state is not None:
        if memory is not None:
            memory.load_state_dict(state["memory"])
        pipeline.load_state_dict(state["rewards"])
        first = state["step"] + 1
        say(f"going on with {folder} at step {first}")
    screen = sys.stdout

    def aloud(line: str) -> None:
        with redirect_stdout(screen):
            say(line)

    loggers = open_loggers(
        config.trainer.loggers,
        folder,
        config.model_dump(),
        from_step=first,
        steps=config.trainer.steps,
        say=aloud,
    )
    watchdog = Watchdog(config.trainer.stall_timeout, aloud)
    run = Run(
        config=config,
        folder=folder,
        source=source,
        env=env,
        tokenizer=tokenizer,
        pipeline=pipeline,
        models=of_run,
        memory=memory,
        loggers=loggers,
        say=aloud,
        watchdog=watchdog,
        last=last,
        state=state,
        history=dict(state["history"]) if state is not None else {},
    )
    try:
        # verl and Ray print a great deal; it goes into a file, and the run's own lines to the screen.
        with (
            (folder / "verl.log").open("a", encoding="utf-8") as log,
            redirect_stdout(log),
            redirect_stderr(log),
            watchdog,
        ):
            _on_ray(composed, run)
    except Stalled as stop:
        raise RunLost(f"{stop}; {_how_to_go_on(folder)}") from stop
    except ray.exceptions.RayError as error:
        raise RunLost(
            f"a process of the run was lost while it waited for {watchdog.waiting_for}: {_first_line(error)};"
            f" {_how_to_go_on(folder)}"
        ) from error
    finally:
        pipeline.close()
        for logger in loggers:
            logger.close()

    before, after = run.history["before"], run.history["after"]
    say(f"after training:  {in_words(after)} on held-out test tasks")
    summary = {
        "run": str(folder),
        "env": config.env.id,
        "credit": config.credit.name,
        "rewards": pipeline.in_words(),
        "seed": config.seed,
        "steps": config.trainer.steps,
        "episodes": config.trainer.steps * config.trainer.tasks_per_step * config.trainer.group_size,
        "before": before,
        "after": after,
        "seconds": time.perf_counter() - began,
    }
    run_folder.write_summary(folder, summary)
    return summary


def _on_ray(composed: Any, run: Run) -> None:
    """Start Ray, run verl's trainer in this process, and shut everything down whatever happens."""
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ

    options: Any = OmegaConf.to_container(composed.ray_kwargs.ray_init, resolve=True)
    os.environ["TRANSFER_QUEUE_ENABLE"] = "1"
    if options.get("address") is not None:
        # A cluster that is there already does not inherit the environment of this process.
        passed = {k: v for k, v in os.environ.items() if k.startswith(("VERL_", "TQ_", "TRANSFER_QUEUE_"))}
        given = options.get("runtime_env") or {}
        options["runtime_env"] = {**given, "env_vars": {**passed, **given.get("env_vars", {})}}
        for key in ("num_cpus", "num_gpus", "object_store_memory", "include_dashboard"):
            options.pop(key, None)
    options.setdefault("log_to_driver", False)
    options.setdefault("logging_level", "ERROR")
    run.watchdog.waits("Ray to start")
    run.say("starting Ray")
    try:
        _start_ray(options)
        tq.init(composed.transfer_queue)
        trainer = SyncTrainer(composed, run)
        trainer.init()
        manager = AgentLoopManagerTQ.create(
            config=composed,
            llm_client=trainer.get_llm_client(),
            teacher_client=trainer.get_teacher_client(),
            reward_loop_worker_handles=trainer.get_reward_handles(),
        )
        run.watchdog.waits("the agent loops to start")
        trainer.fit(manager)
        if "after" not in run.history:  # a run that had ended goes on with nothing to do
            run.history["after"] = trainer.evaluate("test")
    finally:
        try:
            tq.close()
        finally:
            ray.shutdown()


def _start_ray(options: dict[str, Any]) -> None:
    """Start or join a cluster; Ray gives its own processes 30 s to come up, which a busy machine may need more than once."""
    for left in (2, 1, 0):
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if not left or "timed out during startup" not in str(error):
                raise RunLost(f"Ray could not be started: {_first_line(error)}") from error


def _on_workers(pipeline: RewardPipeline, config: TrainConfig) -> RewardPipeline:
    """Put the sources whose model is on the workers in the place of those that hold it themselves."""
    entries = []
    for entry, item in zip(pipeline.entries, config.reward, strict=True):
        cls = ON_WORKERS.get(entry.name)
        if cls is not None:
            given = {} if isinstance(item, str) else item
            parameters = {k: v for k, v in given.items() if k != "name" and k not in SETTINGS}
            entry = replace(entry, source=cls(**parameters))
        entries.append(entry)
    pipeline.entries = tuple(entries)
    return pipeline


def _validated(composed: Any) -> None:
    try:
        validate_config(
            config=composed,
            use_reference_policy=need_reference_policy(composed),
            use_critic=need_critic(composed),
        )
    except (AssertionError, ValueError, TypeError) as error:
        raise UsageError(f"verl refuses this configuration: {error}") from error


def _how_to_go_on(folder: Path) -> str:
    last = checkpoint.latest(folder / "checkpoints")
    if last is None:
        return f"there is no checkpoint yet, so the run has to start again ({folder})"
    return f"the last whole checkpoint is {last.name}; go on with resume={folder}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
