"""The critic: a second language model with one number per token, for the credit schemes that compare with a value.

The value of a turn is read at the last token BEFORE the turn's action, so it has not seen the action (read at the
last token of the action it would be a Q, and the baseline would depend on the action).

Shapes: B trajectories of K turns, R = B rows of L tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification
from transformers.utils import logging as transformers_logging

from ...agents.chat import ChatTokenizer
from ...envs import Trajectory, TurnEnv
from ..batch import TurnBatch
from .update import micro_batches


class Critic:
    """Values of states, learned by regression on the returns that a credit scheme gives.

    Args:
        source: name or folder of the model whose weights it starts from; the head starts at 0.
        chat: to write the observation after the last turn of a truncated episode.
        env: its observation role is read.
        device: where it lives.
        lr: learning rate of its AdamW.
        token_budget: padded tokens per micro-batch.
        resume: a folder that `save` wrote.
    """

    GIVES = frozenset({"values", "last_value", "token_values"})
    """Fields of a `TurnBatch` that a critic fills in."""

    def __init__(
        self,
        source: str,
        chat: ChatTokenizer,
        env: TurnEnv,
        *,
        device: torch.device,
        lr: float,
        token_budget: int,
        resume: Path | None = None,
    ) -> None:
        said = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # that the head is new is what we want
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: Any = AutoModelForTokenClassification.from_pretrained(
                str(resume or source), num_labels=1, dtype=torch.float32
            )
        transformers_logging.set_verbosity(said)
        if resume is None:
            for name, parameter in self.model.named_parameters():
                if name.startswith(("score", "classifier")):
                    torch.nn.init.zeros_(parameter)
        self.model.to(device).eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.0)
        if resume is not None:
            self.optimizer.load_state_dict(torch.load(resume / "optimizer.pt", weights_only=True))
        self._chat, self._env, self._device, self._budget = chat, env, device, token_budget

    def save(self, folder: Path) -> None:
        """Write model and optimizer into a folder."""
        self.model.save_pretrained(folder)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")

    def attach(self, batch: TurnBatch, trajectories: list[Trajectory]) -> TurnBatch:
        """The batch with `values` [B, K], `last_value` [B] and `token_values` [R, L] of the current critic."""
        assert (
            batch.tokens is not None and batch.action_mask is not None and batch.row_to_trajectory is not None
        )
        rows, lengths = self._with_endings(batch, trajectories)
        with torch.no_grad():
            after = self._forward(rows, lengths)  # value of the state after each token, (R, L')
        token_values = torch.zeros(batch.tokens.shape)
        token_values[:, 1:] = after[:, : batch.tokens.shape[1] - 1]
        token_values[~batch.action_mask] = 0.0
        values = torch.zeros(batch.rewards.shape)
        row, column = self._first_tokens(batch)
        values[batch.row_to_trajectory[row], self._turns(batch, row, column)] = token_values[row, column]
        last = torch.zeros(len(batch.outcome))
        last[batch.row_to_trajectory] = after.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        last[batch.terminated] = 0.0
        return batch.unchecked(values=values, last_value=last, token_values=token_values)

    def update(
        self, batch: TurnBatch, returns: Tensor, *, level: str, epochs: int, max_grad_norm: float
    ) -> dict[str, float]:
        """Regress the values on the returns: [B, K] at the state before each turn, or [R, L] at each action token.

        Returns:
            value_loss (mean squared error before the first step), value_explained (share of the variance of the
            returns that the values explained, 1 is exact), value_mean, critic_gradient_norm.
        """
        assert (
            batch.tokens is not None and batch.action_mask is not None and batch.row_to_trajectory is not None
        )
        if level == "token":
            row, column = batch.action_mask.nonzero(as_tuple=True)
            wanted = returns[row, column].float()
        else:
            row, column = self._first_tokens(batch)
            wanted = returns[batch.row_to_trajectory[row], self._turns(batch, row, column)].float()
        keep = batch.valid[batch.row_to_trajectory[row]]
        row, column, wanted = row[keep], column[keep], wanted[keep]
        targets = torch.full(batch.tokens.shape, torch.nan)
        targets[row, column] = wanted
        asked = ~targets.isnan()
        loss_sum, norms, before = 0.0, [], torch.zeros(batch.tokens.shape)
        for epoch in range(epochs):
            self.optimizer.zero_grad()
            for part, width in micro_batches(asked, asked.any(1), self._budget):
                tokens = batch.tokens[part, : width - 1].to(self._device)
                values = self.model(input_ids=tokens).logits[..., 0].float().cpu()
                mask = asked[part, 1:width]
                error = (values - targets[part, 1:width])[mask]
                (error.square().sum() / len(wanted)).backward()
                if epoch == 0:
                    loss_sum += error.detach().square().sum().item()
                    before[part, 1:width] = torch.where(mask, values.detach(), 0.0)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_grad_norm)
            if norm.isfinite():
                self.optimizer.step()
            norms.append(norm.item())
        variance = wanted.var(correction=0).item()
        loss = loss_sum / len(wanted)
        return {
            "value_loss": loss,
            "value_explained": 1 - loss / variance if variance > 0 else float("nan"),
            "value_mean": before[asked].mean().item(),
            "critic_gradient_norm": sum(norms) / len(norms),
        }

    def _first_tokens(self, batch: TurnBatch) -> tuple[Tensor, Tensor]:
        """Row and column of the first action token of every turn."""
        assert batch.turn_of_token is not None and batch.action_mask is not None
        turn = torch.where(batch.action_mask, batch.turn_of_token, -1)
        starts = batch.action_mask.clone()
        starts[:, 1:] &= turn[:, 1:] != turn[:, :-1]
        row, column = starts.nonzero(as_tuple=True)
        return row, column

    @staticmethod
    def _turns(batch: TurnBatch, row: Tensor, column: Tensor) -> Tensor:
        assert batch.turn_of_token is not None
        return batch.turn_of_token[row, column]

    def _with_endings(self, batch: TurnBatch, trajectories: list[Trajectory]) -> tuple[Tensor, Tensor]:
        """The rows, those of truncated episodes with their last observation behind; and the length of each."""
        assert batch.tokens is not None and batch.row_to_trajectory is not None
        endings: list[list[int]] = []
        for i in batch.row_to_trajectory.tolist():
            t = trajectories[i]
            if t.status != "truncated" or not t.turns:
                endings.append([])
                continue
            role = self._env.observation_role
            before = [{"role": "system", "content": ""}] if t.system else []
            before.append({"role": "user", "content": ""})
            for _ in t.turns[1:]:
                before += [{"role": "assistant", "content": ""}, {"role": role, "content": ""}]
            answer = {"role": role, "content": t.final_observation}
            endings.append(self._chat.append(before, [answer], t.turns[-1].action_ids))
        counts = [
            sum(len(u.prompt_ids) + len(u.action_ids) for u in trajectories[i].turns)
            if bool(batch.valid[i])
            else 0
            for i in batch.row_to_trajectory.tolist()
        ]
        lengths = torch.tensor([n + len(e) for n, e in zip(counts, endings, strict=True)])
        rows = torch.zeros(len(counts), int(lengths.max()), dtype=torch.long)
        rows[:, : batch.tokens.shape[1]] = batch.tokens
        for r, (count, ending) in enumerate(zip(counts, endings, strict=True)):
            rows[r, count : count + len(ending)] = torch.tensor(ending, dtype=torch.long)
        return rows, lengths

    def _forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """The number at each token, (R, L)."""
        live = torch.arange(rows.shape[1]) < lengths[:, None]
        values = torch.zeros(rows.shape)
        for part, width in micro_batches(live, live.any(1), self._budget):
            values[part, :width] = (
                self.model(input_ids=rows[part, :width].to(self._device)).logits[..., 0].float().cpu()
            )
        return values
