"""Continuous batching: many episodes sample from one model, one forward per decode step for all of them.

`SlotCache` holds the keys and values: every episode owns one row of a tensor per layer and keeps it across
its turns, so that a turn costs a forward over the new tokens only. `Engine` decides what runs: it lets the
tokens of newly arrived observations in (in padded groups of similar length), decodes one token for every row
that is writing, hands out finished messages, and gives the rows of finished episodes to waiting ones.

The continuous batching of transformers 5.10 (paged attention, `init_continuous_batching`) was measured beside
it, on one CPU core with a model of half a million weights: 64 prompts of 200 tokens and 16 sampled ones take
0.33 s here and 3.8 s there, a second turn of 30 and 16 tokens 0.15 s and 3.5 s. It also has one seed for all
requests.

Shapes: N rows in a forward, T new tokens per row, L cached tokens looked at, S slots, C capacity of a slot in
tokens, H heads of the keys, D head size, V vocabulary.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache

from ..envs.errors import ContextFull, TurnwiseError, UsageError

_PREFILL_TOKENS = 4096  # padded tokens per prefill forward: bounds the memory of activations and of the mask
_PREFILL_SHARE = 1 / 4  # observations wait until this share of the writing rows has come together
_EVICT_AFTER = 1.0  # seconds an episode may be silent while others wait for a slot
_PREFILL_PADDING = 256  # padded tokens beyond which a group of rows is split in two
_EVICT_POLL = 0.01  # seconds between two looks for a silent episode
_DENSE = 0.75  # share of the first rows that must be at work to leave the rest in
_FIRST_CAPACITY = 128


class NonFiniteLogitsError(TurnwiseError, ArithmeticError):
    """Raised when the model gives logits that are NaN or infinite."""


class UnsupportedModelError(UsageError):
    """Raised when a model cannot keep the rows of a batch apart, so that what it samples would be wrong."""


class Sampling(NamedTuple):
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: sample among the fewest tokens whose probabilities sum to at least this, in (0, 1].
        top_k: sample among this many of the most likely tokens; 0 for all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(slots=True, eq=False)
class Stream:
    """The context of one episode.

    Attributes:
        key: 64 bits, derived from the episode's seed; with the position of a token it decides the draw.
        tokens: all ids so far, prompts and actions in order.
        slot: the row of the cache that holds the context's beginning, -1 for none.
        busy: whether a message is being sampled.
        idle_since: monotonic time of the end of the last message.
    """

    key: np.uint64
    tokens: list[int] = field(default_factory=list)
    slot: int = -1
    busy: bool = False
    idle_since: float = 0.0


class Sampled(NamedTuple):
    """One sampled message: its token ids, their log-probabilities in nats, and their certainties where asked for."""

    ids: list[int]
    log_probs: list[float]
    certainties: list[float]


@dataclass(slots=True, eq=False)
class _Request:
    stream: Stream
    pending: NDArray[np.int64]  # tokens that are not in the cache yet
    limit: int
    future: asyncio.Future[Sampled]


def stream_key(seed: int) -> np.uint64:
    """The key of the random numbers of an episode with this seed (any integer)."""
    return np.uint64(np.random.SeedSequence(seed & (2**128 - 1)).generate_state(1, np.uint64)[0])


def uniforms(keys: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) per (key, position), independent of everything else: the same in every batch.

    A counter-based generator: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014) started at `key` and read at step `position`. 40 bits, so that
    `u * total < total` in float64.
    """
    with np.errstate(over="ignore"):
        z = keys + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    uniform: NDArray[np.float64] = (z >> np.uint64(24)) * 2.0**-40
    return uniform


def draw(logits: Tensor, uniform: NDArray[np.float64], sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution at `uniform`.

    Args:
        logits: [N, V].
        uniform: [N] in [0, 1).
        sampling: temperature and truncation.

    Returns:
        Ids [N] and their log-probabilities [N] in float32: of the full softmax at the temperature, also where
        `top_p` or `top_k` cut the distribution, because that is what a trainer can compute again. Greedy
        decoding reports the log-probabilities at temperature 1.
    """
    logits = logits.float()
    if sampling.temperature not in (0.0, 1.0):
        logits = logits / sampling.temperature
    log_probs = logits.log_softmax(-1)
    if sampling.temperature == 0.0:
        ids = logits.argmax(-1)
    else:
        weights = log_probs.exp()
        if sampling.top_k > 0 or sampling.top_p < 1.0:
            weights = _truncate(weights, sampling)
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        targets = torch.from_numpy(uniform).to(logits.device)[:, None] * cumulative[:, -1:]
        ids = torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    return ids, log_probs.gather(-1, ids[:, None])[:, 0]


def certainty(logits: Tensor) -> Tensor:
    """KL(U || p) in nats of each row of logits [N, V] at temperature 1, U the uniform distribution: [N], at least 0."""
    return -logits.float().log_softmax(-1).mean(-1) - math.log(logits.shape[-1])


def _truncate(weights: Tensor, sampling: Sampling) -> Tensor:
    ordered, order = weights.sort(-1, descending=True)
    before = ordered.cumsum(-1, dtype=torch.float64) - ordered
    drop = before >= sampling.top_p
    if sampling.top_k > 0:
        drop[:, sampling.top_k :] = True
    drop[:, 0] = False
    return torch.zeros_like(weights).scatter_(-1, order, ordered.masked_fill(drop, 0.0))


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of all episodes in fixed rows: per layer two tensors [S, H, C, D] that only ever grow.

    A forward says beforehand, with `aim`, which slots its rows stand for and at which positions their new
    tokens go. `update` writes these in place and returns the rows up to the longest context: a view where the
    rows are the first N slots, a copy otherwise. What lies behind a row's context is left over from others;
    the mask hides it, and it is overwritten before it comes in sight. The last column takes the padding.
    """

    is_compileable = False

    def __init__(self, max_slots: int) -> None:
        self.max_slots = max_slots
        self.layers: list[Any] = []  # the base class keeps tensors here; this one does not
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots = 0
        self.capacity = 0

    def reserve(self, slots: int, tokens: int) -> None:
        """Make room for `slots` rows of `tokens` tokens each and one column for padding."""
        if slots <= self.slots and tokens < self.capacity:
            return
        if slots > self.slots:
            self.slots = min(max(slots, 2 * self.slots), self.max_slots)
        while self.capacity <= tokens:
            self.capacity = max(2 * self.capacity, _FIRST_CAPACITY)
        for tensors in (self.keys, self.values):
            for i, old in enumerate(tensors):
                tensors[i] = self._allocate(old)
                tensors[i][: old.shape[0], :, : old.shape[2]] = old

    def release(self) -> None:
        """Give the memory back; the next forward takes it again."""
        self.keys, self.values = [], []

    def aim(self, rows: Tensor, columns: Tensor, length: int, *, first: bool) -> None:
        """Set the target of the next forward.

        Args:
            rows: slot of each row [N].
            columns: position of each new token in its slot [N, T].
            length: how many columns to return.
            first: whether `rows` is 0 to N - 1, so that no copy is needed.
        """
        self._rows, self._columns, self._length, self._first = rows, columns, length, first
        self._flat: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values [N, H, T, D]; return all up to the longest context [N, H, L, D]."""
        while len(self.keys) <= layer_idx:
            self.keys.append(self._allocate(key_states))
            self.values.append(self._allocate(value_states))
        return (
            self._write(self.keys[layer_idx], key_states),
            self._write(self.values[layer_idx], value_states),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that stand before the new tokens; models ask when they get no position ids."""
        return self._length - self._columns.shape[1]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of the returned keys."""
        return self._length, 0

    @property
    def is_sliding(self) -> list[bool]:
        """No layer has a window."""
        return [False] * max(len(self.keys), 1)

    @property
    def is_initialized(self) -> bool:
        """Whether a forward has come by since the last release."""
        return bool(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def _allocate(self, like: Tensor) -> Tensor:
        # Zeros: a masked NaN would still spoil the attention of the whole row.
        return like.new_zeros(self.slots, like.shape[1], self.capacity, like.shape[3])

    def _write(self, store: Tensor, new: Tensor) -> Tensor:
        heads, size = new.shape[1], new.shape[3]
        if self._flat is None:
            row_heads = self._rows[:, None] * heads + torch.arange(heads, device=new.device)
            self._flat = (row_heads[:, :, None] * self.capacity + self._columns[:, None, :]).flatten()
        store.view(-1, size).index_copy_(0, self._flat, new.reshape(-1, size))
        seen = store[:, :, : self._length]
        return seen[: len(self._rows)] if self._first else seen.index_select(0, self._rows)


class Engine:
    """Samples messages for many streams at once from one causal language model.

    Everything runs in the event loop of the caller: a task makes forwards while there are messages to write,
    and lets the other tasks run between two of them. Loops may follow one another, but not run at the same
    time.

    Args:
        model: a Hugging Face causal language model that takes 4-D attention masks.
        sampling: how tokens are drawn.
        slots: how many episodes the cache holds; more of them wait for one to be freed.
        max_context: most tokens of a context, prompts and actions together.
        max_message: most tokens of a message.
        stop_ids: ids that end a message.
        stop_text: says whether the ids of a message so far end in a stop string; None when there are none.
        stop_text_ids: the ids that can complete a stop string: `stop_text` is asked behind these only.
        certainties: measure of each token the divergence of the model's distribution from the uniform one.
    """

    def __init__(
        self,
        model: Any,
        *,
        sampling: Sampling,
        slots: int,
        max_context: int,
        max_message: int,
        stop_ids: Collection[int],
        stop_text: Callable[[list[int]], bool] | None = None,
        stop_text_ids: Collection[int] = (),
        certainties: bool = False,
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.max_context = max_context
        self.max_message = max_message
        self.cache = SlotCache(slots)
        self._stop_text = stop_text
        self._stops = np.zeros(model.get_input_embeddings().num_embeddings, bool)
        self._stops[[i for i in stop_ids if 0 <= i < len(self._stops)]] = True
        self._stop_text_ids = np.zeros_like(self._stops)
        self._stop_text_ids[list(stop_text_ids)] = True
        self._arguments = {"use_cache": True, **_last_logits(model)}
        # One entry per slot. A slot is free, idle (its episode is with the environment), or has a request
        # that waits for its prefill or is being written (`_writing`).
        self._free = list(range(slots))
        self._owner: list[Stream | None] = [None] * slots
        self._request: list[_Request | None] = [None] * slots
        self._writing = np.zeros(slots, bool)
        self._length = np.zeros(slots, np.int64)  # tokens in the cache
        self._last = np.zeros(slots, np.int64)  # the sampled token that is not in the cache yet
        self._count = np.zeros(slots, np.int64)  # tokens of the message so far
        self._limit = np.zeros(slots, np.int64)
        self._key = np.zeros(slots, np.uint64)
        self._ids = np.zeros((slots, max_message), np.int64)
        self._log_probs = np.zeros((slots, max_message), np.float32)
        self._certainties = np.zeros((slots, max_message), np.float32) if certainties else None
        self._waiting: deque[_Request] = deque()  # without a slot
        self._prefilling: list[_Request] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Compare the model on two contexts of unequal length in slots with the plain model on each of them.

        Models differ in what they make of a mask, of positions and of a cache that is not theirs; this tells.

        Raises:
            UnsupportedModelError: the logits differ, or the forward fails.
        """
        slots = np.arange(min(2, len(self._owner)))
        sizes = np.array([7, 4])[slots]
        contexts = [np.arange(3, 3 + size) % len(self._stops) for size in sizes]
        failures = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
        try:
            # The last slot begins alone and its next tokens are padded, so that a shift of all positions of a
            # padded row, which rotary embeddings do not notice, shows.
            self._forward(*self._pad(slots[-1:], [contexts[-1][:1]], 1), slots[-1:])
            self._length[slots[-1]] = 1
            rest = [context[start:-1] for context, start in zip(contexts, self._length, strict=False)]
            self._forward(*self._pad(slots, rest, max(map(len, rest))), slots)
            self._length[slots[-1]] = 0
            last, end = np.array([context[-1:] for context in contexts]), sizes[:, None] - 1
            ours = self._forward(last, end, end, slots)
            with torch.no_grad():
                rows = [torch.from_numpy(context)[None].to(self.model.device) for context in contexts]
                theirs = torch.stack([self.model(row).logits[0, -1] for row in rows])
        except failures as error:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} cannot run with a cache of slots and a 4-D mask: {error}"
            ) from error
        ours, theirs = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        difference = float((ours - theirs).abs().max())
        allowed = (1e-3 if self.model.dtype == torch.float32 else 5e-2) * float(theirs.max() - theirs.min())
        if not difference <= allowed:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} gives other log-probabilities in a batch with a cache than alone"
                f" (difference {difference:.1g}, allowed {allowed:.1g}): it does not follow 4-D masks and position ids"
            )
        self.cache.release()

    async def generate(self, stream: Stream, prompt_ids: Sequence[int]) -> Sampled:
        """Append a prompt to the stream, sample a message, and append that.

        A message ends with a stop id (which it includes), with a stop string, after `max_message` tokens, or
        when the context is full. When this is cancelled or fails, the stream is as it was before.

        Raises:
            ContextFull: the context with the prompt leaves no room for a token.
            ValueError: a message of this stream is being sampled already, or another event loop is using the
                engine.
        """
        if stream.busy:
            raise UsageError(
                "the agent is still answering this conversation; wait for its reply before acting again"
            )
        size = len(stream.tokens) + len(prompt_ids)
        if size >= self.max_context:
            raise ContextFull(
                f"the conversation has {size} tokens and the model's context holds {self.max_context}, so there is no"
                " room for an answer; shorten the observations, play fewer turns, or raise max_context"
            )
        self._wake()
        known = int(self._length[stream.slot]) if stream.slot >= 0 else 0
        pending = np.array([*stream.tokens[known:], *prompt_ids], np.int64)
        future: asyncio.Future[Sampled] = asyncio.get_running_loop().create_future()
        request = _Request(stream, pending, min(self.max_message, self.max_context - size), future)
        stream.busy = True
        if stream.slot >= 0:
            self._begin(request)
        else:
            self._waiting.append(request)
        try:
            sampled = await future
        except BaseException:
            self._withdraw(request)
            raise
        finally:
            stream.busy = False
            stream.idle_since = time.monotonic()
        stream.tokens += prompt_ids
        stream.tokens += sampled.ids
        return sampled

    def free(self, stream: Stream) -> None:
        """Give the stream's slot to others; its next message computes the whole context again."""
        if stream.busy:
            raise UsageError("the agent is still answering this conversation; cancel that before closing it")
        if stream.slot >= 0:
            self._owner[stream.slot] = None
            self._length[stream.slot] = 0
            heapq.heappush(self._free, stream.slot)
            stream.slot = -1

    def reset(self) -> None:
        """Forget every key and value, because the weights have changed, and give the memory back.

        Raises:
            ValueError: a message is being sampled.
        """
        if any(owner is not None and owner.busy for owner in self._owner) or self._waiting:
            raise UsageError(
                "the weights of a model cannot change while it answers; wait for the rollout to end"
            )
        for owner in self._owner:
            if owner is not None:
                self.free(owner)
        self.cache.release()

    def _wake(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and self._loop.is_running() and self._task and not self._task.done():
                raise UsageError("another event loop is using this agent; give each loop an agent of its own")
            self._drop_all()  # of a loop that was torn down without cancelling its tasks
            self._loop, self._task = loop, None
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                writing = np.count_nonzero(self._writing)
                if not writing:
                    # Those whose replies were handed out together come back over several passes of the loop.
                    for _ in range(4):
                        await asyncio.sleep(0)
                self._admit()
                if len(self._prefilling) > writing * _PREFILL_SHARE:
                    self._prefill()
                if self._writing.any():
                    self._decode()
                    await asyncio.sleep(0)
                elif self._waiting:
                    await asyncio.sleep(_EVICT_POLL)
                elif not self._prefilling:
                    return
        except Exception as error:
            self._drop_all(error)
        except BaseException:
            self._drop_all()
            raise

    def _begin(self, request: _Request) -> None:
        slot = request.stream.slot
        self._request[slot] = request
        self._count[slot] = 0
        self._limit[slot] = request.limit
        self._prefilling.append(request)

    def _admit(self) -> None:
        """Give free slots to those who wait; a slot whose episode has been silent for long counts as free."""
        while self._waiting:
            if not self._free and not self._evict():
                return
            request = self._waiting.popleft()
            request.stream.slot = slot = heapq.heappop(self._free)
            self._owner[slot], self._key[slot] = request.stream, request.stream.key
            self._begin(request)

    def _evict(self) -> bool:
        idle = [stream for stream in self._owner if stream is not None and not stream.busy]
        oldest = min(idle, key=lambda stream: stream.idle_since, default=None)
        if oldest is None or time.monotonic() - oldest.idle_since < _EVICT_AFTER:
            return False
        self.free(oldest)
        return True

    def _withdraw(self, request: _Request) -> None:
        stream = request.stream
        if request in self._waiting:
            self._waiting.remove(request)
        if request in self._prefilling:
            self._prefilling.remove(request)
        slot = stream.slot
        if slot >= 0 and self._request[slot] in (None, request):
            self._request[slot], self._writing[slot] = None, False
            self._length[slot] = min(int(self._length[slot]), len(stream.tokens))

    def _drop_all(self, error: Exception | None = None) -> None:
        for request in [*self._waiting, *(r for r in self._request if r is not None)]:
            self._withdraw(request)
            request.stream.busy = False
            if not request.future.done() and not request.future.get_loop().is_closed():
                if error is None:
                    request.future.cancel()
                else:
                    request.future.set_exception(error)

    def _prefill(self) -> None:
        """Bring pending tokens into the cache and draw the first token of every message whose prompt is complete."""
        queue = sorted(self._prefilling, key=lambda request: -len(request.pending))
        while queue:
            width = min(len(queue[0].pending), _PREFILL_TOKENS)
            padding, group = 0, []
            for request in queue[: _PREFILL_TOKENS // width]:
                padding += max(width - len(request.pending), 0)
                if padding > _PREFILL_PADDING:
                    break
                group.append(request)
            queue = queue[len(group) :]
            self._prefill_group(group, width)
        self._prefilling = [request for request in self._prefilling if len(request.pending)]

    def _prefill_group(self, group: list[_Request], width: int) -> None:
        group.sort(key=lambda request: request.stream.slot)
        slots = np.array([request.stream.slot for request in group])
        ids, positions, columns = self._pad(slots, [request.pending[:width] for request in group], width)
        logits = self._forward(ids, positions, columns, slots)
        self._length[slots] = positions[:, -1] + 1
        for request in group:
            request.pending = request.pending[width:]
        complete = np.array([not len(request.pending) for request in group])
        if complete.any():
            self._writing[slots[complete]] = True
            self._accept(slots[complete], logits[torch.from_numpy(complete).to(logits.device)])

    def _pad(
        self, slots: NDArray[np.int64], pending: list[NDArray[np.int64]], width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Ids, positions and cache columns [N, T] of new tokens, at most `width` = T per row.

        The padding stands at the left, so that the last column is the end of every row. It gets position 0
        and is written where no one looks.
        """
        sizes = np.array([len(tokens) for tokens in pending])
        self.cache.reserve(int(slots.max()) + 1, int((self._length[slots] + sizes).max()))
        behind = np.arange(width) - (width - sizes[:, None])
        real = behind >= 0
        ids = np.zeros(real.shape, np.int64)
        ids[real] = np.concatenate(pending)
        positions = np.where(real, self._length[slots, None] + behind, 0)
        return ids, positions, np.where(real, positions, self.cache.capacity - 1)

    def _decode(self) -> None:
        """Draw one more token for every message that is being written."""
        writing = np.flatnonzero(self._writing)
        rows = int(writing[-1]) + 1
        # Where most of the first rows are at work, the idle ones go along: that is cheaper than copying the
        # cache. What they write stands behind their contexts.
        all_rows = len(writing) >= _DENSE * rows
        slots = np.arange(rows) if all_rows else writing
        self.cache.reserve(rows, int(self._length[slots].max()) + 1)
        positions = self._length[slots, None]
        logits = self._forward(self._last[slots, None], positions, positions, slots)
        self._length[writing] += 1
        if all_rows and len(writing) < rows:
            logits = logits[torch.from_numpy(writing).to(logits.device)]
        self._accept(writing, logits)

    @torch.no_grad()
    def _forward(
        self,
        ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        columns: NDArray[np.int64],
        slots: NDArray[np.int64],
    ) -> Tensor:
        """Logits [N, V] of the last column; `ids`, `positions` and `columns` are [N, T], `slots` is [N]."""
        if self.model.training:
            self.model.eval()
        device = self.model.device
        length = int(positions.max()) + 1
        tokens, places, targets = torch.from_numpy(np.stack([ids, positions, columns])).to(device)
        rows = torch.from_numpy(slots).to(device)
        self.cache.aim(rows, targets, length, first=int(slots[-1]) == len(slots) - 1)
        mask = torch.arange(length, device=device) <= places[:, None, :, None]
        if self.model.config._attn_implementation == "eager":
            low = torch.finfo(self.model.dtype).min
            mask = torch.zeros(mask.shape, dtype=self.model.dtype, device=device).masked_fill_(~mask, low)
        output = self.model(
            input_ids=tokens,
            position_ids=places,
            attention_mask=mask,
            past_key_values=self.cache,
            **self._arguments,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _accept(self, slots: NDArray[np.int64], logits: Tensor) -> None:
        """Draw a token for each of these slots and hand out the messages that it ends."""
        drawn, log_probs = draw(logits, uniforms(self._key[slots], self._length[slots]), self.sampling)
        ids, values = drawn.cpu().numpy(), log_probs.cpu().numpy()
        if not np.isfinite(values).all():
            raise NonFiniteLogitsError(
                "the model gave logits that are not finite, so nothing can be sampled; its weights have diverged"
                " (lower the learning rate) or its numbers overflow (use bfloat16 or float32 in place of float16)"
            )
        counts = self._count[slots]
        self._ids[slots, counts] = ids
        self._log_probs[slots, counts] = values
        if self._certainties is not None:
            self._certainties[slots, counts] = certainty(logits).cpu().numpy()
        self._last[slots] = ids
        self._count[slots] = counts = counts + 1
        ended = self._stops[ids] | (counts >= self._limit[slots])
        if self._stop_text is not None:
            for i in np.flatnonzero(self._stop_text_ids[ids] & ~ended):
                ended[i] = self._stop_text(self._ids[slots[i], : counts[i]].tolist())
        for slot in slots[ended].tolist():
            self._finish(slot)

    def _finish(self, slot: int) -> None:
        request = self._request[slot]
        assert request is not None
        self._request[slot], self._writing[slot] = None, False
        if not request.future.done():
            size = self._count[slot]
            sure = [] if self._certainties is None else self._certainties[slot, :size].tolist()
            sampled = Sampled(self._ids[slot, :size].tolist(), self._log_probs[slot, :size].tolist(), sure)
            request.future.set_result(sampled)


def _last_logits(model: Any) -> dict[str, int]:
    """The argument that spares the output layer all columns but the last, where the model knows it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
