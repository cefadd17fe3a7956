"""Our episode loop inside verl's rollout: one agent loop of verl's is one episode.

The episode is played by `envs.rollout.play` as everywhere else: environments that block have a thread, what breaks is tried
once more and then recorded as a failed episode, limits on time and turns hold. The agent keeps the tokens of the
conversation: what was sampled is what goes back to the server in the next turn and into the row, never encoded again.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register

from ...agents.chat import ChatTokenizer
from ...configs.schema import TrainConfig
from ...envs import Job, TurnEnv, make
from ...envs.agent import Conversation, Reply
from ...envs.errors import ContextFull, EnvFailure, UsageError
from ...envs.rollout import collect, unplayed
from .rows import to_row

NAME = "turnwise"


class RolloutFailed(EnvFailure):
    """The rollout server gave no usable answer."""


class EpisodeRow(AgentLoopOutput):  # type: ignore[misc]  # verl has no types
    """verl's row, with the reward of each turn on the turn's last token."""

    def as_dict(self) -> dict[str, Any]:
        """What is stored; verl calls this."""
        stored: dict[str, Any] = super().as_dict()
        stored["rm_scores"] = torch.tensor(self.extra_fields["token_rewards"], dtype=torch.float32)
        return stored


@dataclass
class _State:
    """The tokens of a conversation, and how many of its messages they hold."""

    tokens: list[int] = field(default_factory=list)
    seen: int = 0
    action: list[int] = field(default_factory=list)


class ServerAgent:
    """An agent whose model is behind verl's rollout servers.

    Args:
        server: verl's client: `await server.generate(request_id=, prompt_ids=, sampling_params=)`.
        chat: turns messages into tokens.
        sampling: sampling parameters of every turn.
        ends: token ids that end a message.
        max_context: most tokens of a conversation.
        max_new_tokens: most tokens of a turn.
        turn_timeout: seconds for a turn, after which the episode has failed; None for no limit.
        seeded: tell the server the episode's seed and conversation, which our own server on a CPU understands.

    Attributes:
        versions: which weights, by step of training, sampled the turns so far.
        seconds: spent waiting for the server.
    """

    name = "verl"

    def __init__(
        self,
        server: Any,
        chat: ChatTokenizer,
        *,
        sampling: Mapping[str, Any],
        ends: frozenset[int],
        max_context: int,
        max_new_tokens: int,
        turn_timeout: float | None = None,
        seeded: bool = False,
    ) -> None:
        self._server, self._chat, self._sampling = server, chat, dict(sampling)
        self._ends = ends
        self._max_context, self._max_new_tokens = max_context, max_new_tokens
        self._timeout, self._seeded = turn_timeout, seeded
        self._states: dict[str, _State] = {}
        self.versions: list[int] = []
        self.seconds = 0.0

    async def act(self, conversation: Conversation) -> Reply:
        """Answer the last message.

        Raises:
            ContextFull: no room is left; the episode ends truncated.
            RolloutFailed: the server stopped in the middle, or says nothing about what it sampled.
            TimeoutError: the turn took too long.
        """
        state = self._states.setdefault(conversation.id, _State())
        if not state.seen:
            prompt = self._chat.start(conversation)
        else:
            answers = conversation[state.seen + 1 :]
            prompt = self._chat.append(conversation[: state.seen], answers, state.action)
        context = [*state.tokens, *prompt]
        if len(context) >= self._max_context:
            raise ContextFull(
                f"the conversation has {len(context)} tokens and model.max_context is {self._max_context}"
            )
        seen = len(conversation)
        began = time.perf_counter()
        async with asyncio.timeout(self._timeout):
            output = await self._server.generate(
                request_id=conversation.id,
                prompt_ids=list(context),
                sampling_params=self._params(context, conversation),
            )
        self.seconds += time.perf_counter() - began
        ids, log_probs = list(output.token_ids), output.log_probs
        if not ids or output.stop_reason == "aborted":
            raise RolloutFailed(
                f"the rollout server ended a turn after {len(ids)} tokens ({output.stop_reason})"
            )
        if log_probs is None or len(log_probs) != len(ids):
            raise RolloutFailed("the rollout server gives no log-probabilities of what it sampled")
        if (version := output.extra_fields.get("global_steps")) is not None:
            self.versions.append(int(version))
        state.tokens, state.seen, state.action = [*context, *ids], seen, ids
        return Reply(self._text(ids), prompt, ids, [float(x) for x in log_probs])

    def close(self, conversation: Conversation) -> None:
        """Forget a conversation."""
        self._states.pop(conversation.id, None)

    def _params(self, context: Sequence[int], conversation: Conversation) -> dict[str, Any]:
        params = {
            **self._sampling,
            "max_tokens": min(self._max_new_tokens, self._max_context - len(context)),
            "stop_token_ids": sorted(self._ends),
        }
        if self._chat.stop_strings:
            params |= {"stop": list(self._chat.stop_strings), "include_stop_str_in_output": True}
        if self._seeded:
            params |= {"seed": conversation.seed, "conversation": conversation.id}
        return params

    def _text(self, ids: Sequence[int]) -> str:
        text = self._chat.text(ids[:-1] if ids[-1] in self._ends else ids)
        return text[
            : min((at for stop in self._chat.stop_strings if (at := text.find(stop)) >= 0), default=None)
        ]


@register(NAME)
class EpisodeLoop(AgentLoopBase):  # type: ignore[misc]
    """Plays one episode per call; verl makes one of these for each."""

    def __init__(self, trainer_config: Any, server_manager: Any, **_: Any) -> None:
        # Not verl's own: that builds a tokenizer of conversations, which we have, and which refuses chat templates that do
        # not look as the model's family usually does.
        self.config = trainer_config.config
        self.rollout_config = self.config.actor_rollout_ref.rollout
        self.server_manager = server_manager

    async def run(self, sampling_params: dict[str, Any], **fields: Any) -> EpisodeRow:
        """Play the episode of a row of `tasks.EnvTasks`.

        Whatever goes wrong is a row too, with the reason in its record: verl would drop a loop that raises, and with it
        the count.
        """
        began = time.perf_counter()
        place = _place(
            str(self.config.turnwise.config),
            tuple(self.config.turnwise.imports),
            self.config.turnwise.source,
            int(self.rollout_config.agent.num_workers),
        )
        trainer = place.config.trainer
        agent = ServerAgent(
            self.server_manager,
            place.chat,
            sampling=sampling_params,
            ends=place.ends,
            max_context=place.config.model.max_context,
            max_new_tokens=place.config.model.max_new_tokens,
            turn_timeout=trainer.turn_timeout,
            seeded=self.rollout_config.name == "turnwise_cpu",
        )
        job = Job(
            int(fields["env_seed"]),
            fields["env_task"] or None,
            fields["env_split"] or None,
            int(fields["index"]),
            int(fields["session_id"]),
        )
        mistake = None
        try:
            async with place.slots:
                result = await collect(
                    place.env, agent, [job], seed=int(fields["agent_seed"]), timeout=trainer.episode_timeout
                )
            (trajectory,) = result.trajectories
        except Exception as error:
            mistake = f"{type(error).__name__}: {error}"
            trajectory = unplayed(place.env, job, ServerAgent.name)
            trajectory.error = mistake[:2000]
        row = to_row(trajectory, pad=place.pad)
        row.record.update(index=job.group, sample=job.sample, mistake=mistake)
        versions = agent.versions or [int(fields["global_steps"]) - 1]
        return EpisodeRow(
            prompt_ids=row.prompt_ids,
            response_ids=row.response_ids,
            response_mask=row.response_mask,
            response_logprobs=row.log_probs,
            reward_score=trajectory.total_reward,
            num_turns=2 * len(trajectory.turns),
            metrics={
                "generate_sequences": agent.seconds,
                "tool_calls": time.perf_counter() - began - agent.seconds,
            },
            extra_fields={
                "turnwise": json.dumps(row.record),
                "token_rewards": row.rewards,
                "min_global_steps": min(versions),
                "max_global_steps": max(versions),
                "reward_extra_info": {},
            },
        )


@dataclass(frozen=True)
class _Place:
    """What all episodes of a process share."""

    config: TrainConfig
    env: TurnEnv
    chat: ChatTokenizer
    ends: frozenset[int]
    pad: int
    slots: asyncio.Semaphore


@lru_cache(maxsize=1)
def _place(config_json: str, imports: tuple[str, ...], source: str, workers: int) -> _Place:
    config = TrainConfig.model_validate_json(config_json)
    load_modules(imports)
    env = make(
        config.env.id,
        **{
            "format": config.format.name,
            "system_prompt": config.format.system_prompt,
            **config.env.parameters,
        },
    )
    tokenizer = AutoTokenizer.from_pretrained(source)
    chat = ChatTokenizer(tokenizer, template_kwargs=config.model.template_kwargs)
    ends = chat.end_of_turn | generation_ends(source)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    return _Place(
        config, env, chat, ends, pad, asyncio.Semaphore(max(1, config.trainer.concurrency // workers))
    )


def generation_ends(source: str) -> frozenset[int]:
    """The end-of-sequence ids of a model's generation config; none where it has none."""
    try:
        ends = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:
        return frozenset()
    return frozenset(() if ends is None else [ends] if isinstance(ends, int) else ends)


def load_modules(imports: Sequence[str]) -> None:
    """Import the modules and files that register the user's environments, each once in a process.

    Raises:
        UsageError: there is no such file.
    """
    for name in imports:
        if not name.endswith(".py"):
            importlib.import_module(name)
            continue
        path = Path(name)
        if path.stem in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise UsageError(f"there is no file {name} on this machine; put it where every node finds it")
        sys.path.append(str(path.parent))
        sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
