"""The language model of a run: built (tiny), loaded by Hugging Face name or folder, or taken from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ...configs.schema import ModelSection
from ...envs import TurnEnv
from ...envs.errors import UsageError
from . import checkpoint
from .tiny import tiny


def find(config: ModelSection, env: TurnEnv, *, seed: int, say: Callable[[str], None]) -> str:
    """Name or folder of the model to start from; builds the tiny model where no path is given.

    A run folder stands for its last checkpoint.

    Raises:
        UsageError: the path is a run folder without a whole checkpoint.
    """
    transformers_logging.disable_progress_bar()  # one file of a small model needs no bar, and logs want no control codes
    if config.path is None:
        return str(tiny(env, config, seed=seed, say=say))
    checkpoints = Path(config.path, "checkpoints")
    if checkpoints.is_dir():
        last = checkpoint.latest(checkpoints)
        if last is None:
            raise UsageError(f"the run {config.path} has no whole checkpoint to start from")
        return str(last)
    return config.path


def load(
    source: str, config: ModelSection, *, device: torch.device, seed: int, resume: Path | None = None
) -> tuple[Any, Any]:
    """Model and tokenizer, in float32, with LoRA adapters where configured.

    Args:
        source: name or folder of the model before training.
        config: `lora_rank` and `lora_alpha` are read.
        device: where the model goes.
        seed: of the adapters' weights.
        resume: checkpoint folder whose weights replace those of the start.

    Raises:
        UsageError: there is no such model, or its tokenizer cannot be loaded.
    """
    folder = str(resume) if resume is not None else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        weights = folder if not config.lora_rank else source
        model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the model {folder!r} could not be loaded: {error}. model.path takes a Hugging Face name, a folder with"
            " config.json, weights and tokenizer, or a run folder"
        ) from error
    if config.lora_rank:
        from peft import LoraConfig, PeftModel, get_peft_model

        if resume is not None:
            model = PeftModel.from_pretrained(model, folder, is_trainable=True)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                lora = LoraConfig(
                    r=config.lora_rank,
                    lora_alpha=config.lora_alpha,
                    lora_dropout=0.0,
                    target_modules="all-linear",
                    task_type="CAUSAL_LM",
                )
                model = get_peft_model(model, lora)
    return model.to(device), tokenizer


class Reference:
    """The policy before training, for the KL term: a frozen copy, or the model with its adapters switched off."""

    def __init__(self, source: str, model: Any, config: ModelSection, device: torch.device) -> None:
        self._adapted = bool(config.lora_rank)
        if self._adapted:
            self.model = model
        else:
            self.model = load(source, config, device=device, seed=0)[0]
            self.model.requires_grad_(False)

    def active(self) -> AbstractContextManager[Any]:
        """While this lasts, `model` computes the reference policy."""
        return self.model.disable_adapter() if self._adapted else nullcontext()
