"""Trajectories to a `TurnBatch`, with the tokens exactly as they were sampled."""

from __future__ import annotations

from collections.abc import Sequence

from ..envs import Trajectory
from ..envs.rollout import agent_seed
from .batch import TurnBatch


def collate(trajectories: Sequence[Trajectory]) -> TurnBatch:
    """Lay trajectories out for credit and update: one row of tokens per trajectory.

    Failed trajectories stay in the batch, marked invalid, so that row i is trajectory i; they enter no statistic and
    no loss. The action of a turn is its tool and arguments where it was valid, its text otherwise.

    Args:
        trajectories: of an agent that records token ids, or of any other; without ids the token side is left out.

    Returns:
        The batch; group numbers are those of the trajectories.
    """
    turns = [t.turns for t in trajectories]
    valid = [t.status != "failed" and bool(t.turns) for t in trajectories]
    tokens: list[list[int]] = []
    action_mask: list[list[bool]] = []
    turn_of_token: list[list[int]] = []
    log_probs: list[list[float]] = []
    for i, row in enumerate(turns):
        ids: list[int] = []
        mask: list[bool] = []
        of_turn: list[int] = []
        sampled: list[float] = []
        for k, turn in enumerate(row if valid[i] else []):
            prompt, action = len(turn.prompt_ids), len(turn.action_ids)
            ids += turn.prompt_ids
            ids += turn.action_ids
            mask += [False] * prompt + [True] * action
            of_turn += [-1] * prompt + [k] * action
            sampled += [0.0] * prompt
            sampled += turn.action_log_probs
        tokens.append(ids)
        action_mask.append(mask)
        turn_of_token.append(of_turn)
        log_probs.append(sampled)
    has_tokens = any(map(any, action_mask))
    return TurnBatch.from_lists(
        [[turn.reward for turn in row] for row in turns],
        outcome=[t.score for t in trajectories],
        group=[t.group for t in trajectories],
        task=[(t.env_id, t.task_id, t.seed) for t in trajectories],
        state=[[turn.state_key for turn in row] for row in turns],
        action=[[_action(turn.tool, turn.arguments, turn.action) for turn in row] for row in turns],
        observation=[[turn.observation for turn in row] for row in turns],
        role=[agent_seed(t.role) for t in trajectories] if any(t.role for t in trajectories) else None,
        terminated=[t.status == "terminated" for t in trajectories],
        valid=valid,
        ids=[t.id for t in trajectories],
        tokens=tokens if has_tokens else None,
        action_mask=action_mask if has_tokens else None,
        turn_of_token=turn_of_token if has_tokens else None,
        log_probs=log_probs if has_tokens else None,
    )


def _action(tool: str | None, arguments: dict[str, object] | None, text: str) -> str:
    return text if arguments is None else f"{tool}{sorted(arguments.items())!r}"
