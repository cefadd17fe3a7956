"""A Hugging Face causal language model, in this process, as an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..envs.agent import Conversation, Message, Reply
from ..envs.errors import UsageError
from .chat import ChatTokenizer
from .engine import Engine, Sampled, Sampling, Stream, UnsupportedModelError, stream_key


@dataclass(slots=True)
class _Episode:
    """What the agent knows about a conversation: its tokens and how far it has been read."""

    stream: Stream
    seen: int  # messages that have been answered
    action_ids: Sequence[int]


class LocalAgent:
    """Answers with a causal language model that is loaded in this process.

    Any number of conversations may be waiting for an answer at once (`asyncio.gather` over `act`): they are
    sampled together, one forward per token for all of them, and each keeps its keys and values from turn to
    turn, so that a turn costs its own tokens only. The tokens of a reply are those that were sampled; nothing
    is ever encoded again.

    The random numbers of a reply depend on `conversation.seed` and the position of the token alone. So what
    is sampled does not depend on which other conversations run beside it, up to the rounding of batched
    arithmetic.

    The model is shared, not copied. A trainer may change its weights in place between rollouts, and then
    calls `refresh()`. While it answers, the model is in eval mode; a trainer that wants dropout calls
    `model.train()`.

    Args:
        model: a decoder-only Hugging Face model, with or without peft adapters.
        tokenizer: its tokenizer, with a chat template.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: sample among the fewest tokens whose probabilities sum to at least this, in (0, 1].
        top_k: sample among this many of the most likely tokens; 0 for all.
        max_new_tokens: most tokens of a reply.
        max_context: most tokens of a conversation. None takes what the model can do: its positions, or its
            sliding window where that is shorter.
        slots: how many conversations the cache holds. With more at once, the later ones wait.
        device: where to move the model; where it is, if None.
        dtype: what to convert the model to, such as `torch.bfloat16`; as it is, if None.
        stop: strings that end a reply. They are cut off from its text, not from its tokens.
        template_kwargs: further variables of the chat template, such as `{"enable_thinking": False}`.
        certainties: give `Reply.certainties`, over the whole vocabulary at temperature 1.

    Attributes:
        name: what trajectories record.

    Raises:
        ChatTemplateError: the tokenizer has no usable chat template.
        UnsupportedModelError: the model is not made of attention alone, its attention kernel takes no mask,
            or a trial run shows that it does not keep the rows of a batch apart.
        ValueError: a parameter is out of range, or `max_context` is beyond what the model can do.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 64,
        max_context: int | None = None,
        slots: int = 64,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        stop: Sequence[str] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        certainties: bool = False,
    ) -> None:
        if not 0 <= temperature < float("inf"):
            raise UsageError(f"temperature must be at least 0 and finite, got {temperature}")
        if not 0 < top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1 (1 switches it off), got {top_p}")
        if top_k < 0:
            raise UsageError(f"top_k must be at least 0 (0 switches it off), got {top_k}")
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if slots < 1:
            raise UsageError(f"slots must be at least 1, got {slots}")
        if isinstance(stop, str) or not all(stop):
            raise UsageError(f"stop must be a list of non-empty strings, got {stop!r}")
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            raise UsageError(
                f"the tokenizer has {len(tokenizer)} tokens and the model embeds {rows}; use the tokenizer of this model,"
                f" or call model.resize_token_embeddings({len(tokenizer)}) and train it"
            )
        if device is not None or dtype is not None:
            model.to(device=device, dtype=dtype)
        self.model = model
        self.chat = ChatTokenizer(tokenizer, template_kwargs=template_kwargs)
        self.name = f"local:{getattr(model, 'name_or_path', '') or type(model).__name__}"
        self._stop = (*self.chat.stop_strings, *stop)
        self._tail = 4 * max(map(len, self._stop), default=0) + 4  # a character has at most four tokens
        self._ends = self.chat.end_of_turn | _end_ids(model)
        self._episodes: dict[str, _Episode] = {}
        self._engine = Engine(
            model,
            sampling=Sampling(temperature, top_p, top_k),
            slots=slots,
            max_context=_context(model, max_context),
            max_message=max_new_tokens,
            stop_ids=self._ends,
            stop_text=self._ends_in_stop if self._stop else None,
            stop_text_ids=self._stop_candidates(len(tokenizer)),
            certainties=certainties,
        )
        self._engine.check()

    @classmethod
    def from_pretrained(cls, path: str, **options: Any) -> Self:
        """Load model and tokenizer by Hugging Face name or from a folder; `options` are those of the class.

        The weights keep the type they are stored in unless `dtype` says otherwise.

        Raises:
            ValueError: as the class does.
            OSError: there is no such model.
        """
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=options.pop("dtype", None) or "auto")
        return cls(model, tokenizer, **options)

    async def act(self, conversation: Conversation) -> Reply:
        """Answer the last message.

        Between two calls the conversation grows by the assistant's message and by at least one that answers
        it.

        Raises:
            ContextFull: no room is left in the context; the episode ends truncated.
            ValueError: the conversation is being answered already, or did not grow by appending.
        """
        episode = self._episodes.get(conversation.id)
        if episode is None:
            episode = self._episodes[conversation.id] = _begin(conversation)
        if not episode.seen:
            prompt = self.chat.start(conversation)
        else:
            prompt = self.chat.append(
                conversation[: episode.seen], _answers(conversation, episode.seen), episode.action_ids
            )
        seen = len(conversation)
        kept = len(episode.stream.tokens)
        sampled = await self._engine.generate(episode.stream, prompt)
        episode.seen, episode.action_ids = seen, sampled.ids
        return Reply(
            self._text(sampled),
            prompt,
            sampled.ids,
            sampled.log_probs,
            input_tokens=kept + len(prompt),
            output_tokens=len(sampled.ids),
            cached_tokens=kept,
            certainties=sampled.certainties,
        )

    def close(self, conversation: Conversation) -> None:
        """Forget a conversation and free its slot; without effect on one that is unknown."""
        episode = self._episodes.get(conversation.id)
        if episode is not None:
            self._engine.free(episode.stream)
            del self._episodes[conversation.id]

    def refresh(self) -> None:
        """Drop all caches, because the weights of the model have changed, and give their memory back.

        A conversation that goes on afterwards is computed again from its first token.

        Raises:
            ValueError: a conversation is being answered.
        """
        self._engine.reset()

    def _text(self, sampled: Sampled) -> str:
        ids = sampled.ids
        text = self.chat.text(ids[:-1] if ids[-1] in self._ends else ids)
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=len(text))
        return text[:cut]

    def _ends_in_stop(self, ids: list[int]) -> bool:
        tail = self.chat.text(ids[-self._tail :])
        return any(stop in tail for stop in self._stop)

    def _stop_candidates(self, size: int) -> list[int]:
        """Ids that can hold the last character of a stop string, or a part of one (which decodes to U+FFFD)."""
        marks = {stop[-1] for stop in self._stop} | {"\ufffd"}
        return [i for i in range(size) if marks.intersection(self.chat.text([i]))] if self._stop else []


def _begin(conversation: Conversation) -> _Episode:
    """The state of a conversation that is new here: read up to the last recorded action where it is a branch.

    A history without tokens was played by an agent that knows none; its messages are encoded like opening
    ones.
    """
    stream = Stream(stream_key(conversation.seed))
    history = conversation.history
    if not history or not all(turn.action_ids for turn in history):
        return _Episode(stream, 0, ())
    for turn in history:
        stream.tokens += turn.prompt_ids
        stream.tokens += turn.action_ids
    answered = max(i for i, message in enumerate(conversation) if message["role"] == "assistant")
    return _Episode(stream, answered, history[-1].action_ids)


def _answers(conversation: Conversation, seen: int) -> list[Message]:
    """The messages behind the assistant's message that follows the first `seen`."""
    added = conversation[seen:]
    if len(added) < 2 or added[0]["role"] != "assistant":
        raise UsageError(
            f"conversation {conversation.id!r} must grow by the assistant's message and an answer to it before the agent"
            f" acts again, but it grew by {[m['role'] for m in added]}; start another branch as a Conversation with an id"
            " of its own"
        )
    return added[1:]


def _end_ids(model: Any) -> frozenset[int]:
    """The end-of-sequence ids of the model's generation config."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return frozenset(() if ends is None else np.atleast_1d(ends).tolist())


def _context(model: Any, asked: int | None) -> int:
    """The number of tokens a context may have: what is asked for, or else all that the model can do.

    Beyond a sliding window, or where a rotary embedding changes with the length of the longest row, the
    tokens of an episode would not be computed from its own tokens and their positions alone, as the cache
    takes for granted.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    if config._attn_implementation not in ("sdpa", "eager"):
        raise UnsupportedModelError(
            f"the attention kernel {config._attn_implementation!r} takes no mask per token; load the model with"
            ' attn_implementation="sdpa"'
        )
    layers = set(getattr(config, "layer_types", None) or ())
    odd = layers - {"full_attention", "sliding_attention", "chunked_attention"}
    if config.is_encoder_decoder or getattr(model, "_is_stateful", False) or odd:
        raise UnsupportedModelError(
            f"{name} has {', '.join(sorted(odd)) or 'an encoder or a state'} beside attention, which is not kept per"
            " episode; use a decoder-only model whose layers are all attention"
        )
    limits = {"positions": getattr(config, "max_position_embeddings", None)}
    if layers != {"full_attention"}:
        limits["window"] = getattr(config, "sliding_window", None)
        limits["chunk"] = getattr(config, "attention_chunk_size", None)
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if kind.get("rope_type") in ("dynamic", "longrope"):
            limits["rotary embedding"] = kind.get("original_max_position_embeddings", limits["positions"])
    most, what = min(((tokens, what) for what, tokens in limits.items() if tokens), default=(None, ""))
    limit = most if asked is None else asked
    if limit is None:
        raise UsageError(f"the config of {name} does not say how long a context may be; pass max_context")
    if not 2 <= limit <= (most or limit):
        raise UsageError(f"max_context must be from 2 to {most} (the model's {what}), got {limit}")
    return limit
