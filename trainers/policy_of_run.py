"""The policy of a run folder, or of any model, opened to be looked at: what an audit and an evaluation of rewards begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..agents.local import LocalAgent
from ..configs.schema import EnvSection, FormatSection, ModelSection, TrainConfig
from ..envs import TurnEnv, make
from ..envs.errors import UsageError
from . import run_folder
from .local import checkpoint
from .local import model as models
from .rewards import Models


@dataclass(frozen=True)
class OpenedPolicy:
    """A policy and what it was trained in.

    Attributes:
        env: not reset.
        agent: samples from the policy.
        around: what reward sources may use.
        source: folder or name that the weights were read from.
        trained: the configuration of the run; None where the model is no run folder.
        state: of the run's last checkpoint, None likewise.
    """

    env: TurnEnv
    agent: LocalAgent
    around: Models
    source: str
    trained: TrainConfig | None
    state: dict[str, Any] | None


def open_policy(
    name: str,
    env: EnvSection | None,
    form: FormatSection | None,
    *,
    temperature: float,
    max_new_tokens: int,
    slots: int,
    seed: int,
    say: Callable[[str], None],
) -> OpenedPolicy:
    """Open the last checkpoint of a run folder, or a Hugging Face model by name or folder.

    Args:
        name: of the run or the model.
        env, form: None takes those of the run.
        temperature: while sampling.
        max_new_tokens: tokens of a turn, where `name` is no run.
        slots: conversations at a time.
        seed: of what reward sources draw.
        say: gets a line at a time about what happens.

    Raises:
        UsageError: the model is no run folder and no environment is given.
    """
    folder = Path(name)
    trained = run_folder.reopen(folder) if (folder / "config.yaml").is_file() else None
    section = env or (trained.env if trained else None)
    written = form or (trained.format if trained else FormatSection())
    if section is None:
        raise UsageError(f"{name} is no run folder, so the environment must be given: env=NAME")
    made = make(
        section.id, **{"format": written.name, "system_prompt": written.system_prompt, **section.parameters}
    )
    model_section = trained.model if trained else ModelSection(path=name, max_new_tokens=max_new_tokens)
    source = models.find(model_section.model_copy(update={"path": name}), made, seed=0, say=say)
    last = Path(source) if trained else None
    state = checkpoint.load_state(last) if last is not None else None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = models.load(
        state["source"] if state else source, model_section, device=device, seed=0, resume=last
    )
    model.eval()
    agent = LocalAgent(
        model,
        tokenizer,
        temperature=temperature,
        max_new_tokens=model_section.max_new_tokens,
        max_context=model_section.max_context,
        slots=slots,
        template_kwargs=model_section.template_kwargs,
    )
    around = Models(
        env=made,
        policy=model,
        tokenizer=tokenizer,
        chat=agent.chat,
        agent=agent,
        device=device,
        token_budget=16384,
        max_context=model_section.max_context,
        temperature=temperature,
        lr=trained.trainer.lr if trained else 1e-3,
        seed=seed,
    )
    return OpenedPolicy(made, agent, around, source, trained, state)
