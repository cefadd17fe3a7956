"""`TreeSearch`: looks ahead in copies of the environment before every turn."""

from __future__ import annotations

import asyncio
import heapq
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import fsum
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from ..envs.agent import Agent, Conversation, Message, Reply
from ..envs.core import TurnEnv
from ..envs.errors import ContextFull, UsageError
from ..envs.formats import writable
from ..envs.rollout import agent_name, agent_seed
from ..envs.trajectory import Turn
from .candidates import ask, read_call, turn_of, unfinished, with_costs
from .reward_model import Scorer

T = TypeVar("T")

Method: TypeAlias = Literal["beam", "best_first", "mcts"]

_IDLE = 64


@dataclass(eq=False)
class _Node:
    """A state that the search has been in.

    Attributes:
        messages: the conversation that leads to it.
        turns: all turns of the episode before it, with their tokens.
        snapshot: of the environment; None where the episode has ended.
        reply: the agent's, that led here; None at the root.
        score: the true score where the episode has ended.
        reward: what the environment paid since the first root.
        value: what the guide makes of it.
        visits, total: of MCTS: evaluations at or below the node, and their sum.
        children: None before it is expanded.
    """

    messages: list[Message]
    turns: tuple[Turn, ...]
    snapshot: dict[str, Any] | None
    state_key: object
    reply: Reply | None = None
    score: float | None = None
    success: bool = False
    reward: float = 0.0
    value: float = 0.0
    visits: int = 0
    total: float = 0.0
    children: list[_Node] | None = None

    def below(self) -> Iterator[_Node]:
        """This node and all under it."""
        yield self
        for child in self.children or ():
            yield from child.below()


@dataclass
class _Search:
    """The search of one live episode."""

    env: TurnEnv
    seed: int
    root: _Node | None = None
    thread: ThreadPoolExecutor | None = None
    drawn: int = 0
    calls: int = 0
    turns: int = 0
    tokens: int = 0
    asked: list[Reply] = field(default_factory=list)

    async def run(self, function: Callable[[], T]) -> T:
        """Run what belongs to the copy of the environment, in a thread where it waits."""
        if not self.env.blocking:
            return function()
        self.thread = self.thread or ThreadPoolExecutor(1, "turnwise-search")
        return await asyncio.get_running_loop().run_in_executor(self.thread, function)


class TreeSearch:
    """Searches from the live state before every turn, and plays the first action of the best path it found.

    The agent proposes `branch` actions in a state, of which those that make the same call count once, and each is played in a
    copy of the environment that is set to the state by its snapshot. The live environment is only copied. So the search uses the
    environment as its model: it sees what the environment will show, hidden state included. What is random in the
    environment is drawn anew in the copies, so that it cannot be foreseen.

    A state is worth what the guide says. With "score" the agent plays on from it to the end, once, and the true score counts;
    with "reward" it is the sum of the environment's rewards on the way; with a scorer the sum of its rewards for the turns on
    the way, and no score is looked at.

    - "beam": all states of a depth are expanded, and the `beam` best go on.
    - "best_first": the best state that is not expanded is expanded next.
    - "mcts": the state to expand is found from the root by UCB1, its first child is evaluated, and the value counts for all
      states above it; the most visited action is played.

    What was searched below the action that is played is kept, as far as the episode goes there. Where the tree holds a path to
    success, it is followed without another search (not under a scorer, which does not know of success). Everything follows from
    the conversation's seed.

    Args:
        inner: the agent; it must draw its answers, at a temperature above 0.
        method: see above.
        guide: see above.
        branch: actions proposed per state.
        beam: states kept per depth.
        exploration: of UCB1, in units of the value.
        max_calls: calls of the agent per turn of the live episode; once they are reached, no further state is expanded.
        max_turns: turns played in copies, likewise; None for no limit.
        max_tokens: tokens read and written, likewise.

    Raises:
        UsageError: a number is out of range.

    Source: Yao et al., Tree of Thoughts (arXiv 2305.10601) for beams; Koh et al., Tree Search for Language Model Agents (arXiv
    2407.01476) for best-first; Zhou et al., Language Agent Tree Search (arXiv 2310.04406) for MCTS.
    """

    def __init__(
        self,
        inner: Agent,
        *,
        method: Method = "best_first",
        guide: Literal["score", "reward"] | Scorer = "score",
        branch: int = 4,
        beam: int = 4,
        exploration: float = 1.0,
        max_calls: int | None = 64,
        max_turns: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        limits = {"max_calls": max_calls, "max_turns": max_turns, "max_tokens": max_tokens}
        for name, value in {"branch": branch, "beam": beam, **limits}.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if all(value is None for value in limits.values()):
            raise UsageError("a search needs an end: give max_calls, max_turns or max_tokens")
        if not 0 <= exploration < math.inf:
            raise UsageError(f"exploration must be at least 0 and finite, got {exploration}")
        if isinstance(guide, str) and guide not in ("score", "reward"):
            raise UsageError(f"guide must be 'score', 'reward' or a scorer, got {guide!r}")
        self.inner = inner
        said = guide if isinstance(guide, str) else "scorer"
        self.name = f"TreeSearch({method}, {said}, {agent_name(inner)})"
        self._method, self._guide, self._branch, self._beam = method, guide, branch, beam
        self._exploration = exploration
        self._max_calls, self._max_turns, self._max_tokens = max_calls, max_turns, max_tokens
        self._searches: dict[str, _Search] = {}

    async def act(self, conversation: Conversation) -> Reply:
        """The first action of the best path."""
        search = self._searches.get(conversation.id)
        if search is None:
            search = self._searches[conversation.id] = _Search(conversation.env.clone(), conversation.seed)
        search.root = root = await self._root(search, conversation)
        search.calls = search.turns = search.tokens = 0
        search.asked = []
        if not self._solved(root):
            await {"beam": self._beams, "best_first": self._best_first, "mcts": self._mcts}[self._method](
                search, conversation, root
            )
        search.root = chosen = self._choose(root)
        assert chosen.reply is not None
        return with_costs(chosen.reply, search.asked)

    def close(self, conversation: Conversation) -> None:
        """Forget a conversation, and close the copy of its environment."""
        search = self._searches.pop(conversation.id, None)
        if search is not None:
            if search.thread is None:
                search.env.close()
            else:
                search.thread.submit(search.env.close)
                search.thread.shutdown(wait=False)

    async def _root(self, search: _Search, conversation: Conversation) -> _Node:
        """The live state: the node that was chosen, with what is known below it, where the episode went there."""
        env, old = conversation.env, search.root
        snapshot = await search.run(env.snapshot)
        state_key = await search.run(env.state_key)
        if old is None:
            return _Node(list(conversation), tuple(conversation.history), snapshot, state_key)
        if old.snapshot is not None and old.messages == list(conversation) and old.state_key == state_key:
            old.snapshot = snapshot
            old.children = old.children or None  # where nothing could be said, that is to be heard now
            return old
        # It went elsewhere, as chance would have it: only what was said is known.
        return _Node(list(conversation), old.turns, snapshot, state_key, reward=old.reward)

    def _spent(self, search: _Search) -> bool:
        return any(
            limit is not None and used >= limit
            for used, limit in (
                (search.calls, self._max_calls),
                (search.turns, self._max_turns),
                (search.tokens, self._max_tokens),
            )
        )

    def _solved(self, root: _Node) -> bool:
        return isinstance(self._guide, str) and any(node.success for node in root.below() if node is not root)

    def _choose(self, root: _Node) -> _Node:
        """The child to play."""
        assert root.children
        if self._method == "mcts" and not self._solved(root):
            return max(root.children, key=lambda child: (child.visits, child.value))

        def best(child: _Node) -> tuple[bool, float]:
            found = list(child.below())
            solved = isinstance(self._guide, str) and any(node.success for node in found)
            return solved, max(node.value for node in found if not node.children)

        return max(root.children, key=best)

    # The three ways.

    async def _beams(self, search: _Search, conversation: Conversation, root: _Node) -> None:
        level = [root]
        while level:
            for node in level:
                if node.children is None and (node is root or not self._spent(search)):
                    await self._expand(search, conversation, node)
            below = [child for node in level for child in node.children or () if child.snapshot is not None]
            if self._solved(root) or self._spent(search):
                return
            level = heapq.nlargest(self._beam, below, key=lambda child: child.value)

    async def _best_first(self, search: _Search, conversation: Conversation, root: _Node) -> None:
        order = 0
        queue: list[tuple[float, int, _Node]] = []

        def push(nodes: Sequence[_Node]) -> None:
            nonlocal order
            for node in nodes:
                if node.snapshot is not None:
                    heapq.heappush(queue, (-node.value, order := order + 1, node))

        push([node for node in root.below() if node.children is None])
        while queue:
            _, _, node = heapq.heappop(queue)
            if node is not root and self._spent(search):
                return
            await self._expand(search, conversation, node)
            if self._solved(root):
                return
            push(node.children or ())

    async def _mcts(self, search: _Search, conversation: Conversation, root: _Node) -> None:
        idle = 0  # rounds that found the end of an episode once more, which costs nothing
        while idle < _IDLE and (root.children is None or not self._spent(search)):
            path = [root]
            while below := path[-1].children:
                parent = path[-1]
                path.append(max(below, key=lambda child: self._ucb(parent, child)))
            leaf = path[-1]
            idle += 1
            if leaf.children is None and leaf.snapshot is not None and (leaf is root or leaf.visits):
                idle = 0
                await self._expand(search, conversation, leaf)
                path += (leaf.children or [])[:1]
            for node in path:
                node.visits += 1
                node.total += path[-1].value
            if self._solved(root):
                return

    def _ucb(self, parent: _Node, child: _Node) -> float:
        if not child.visits:
            return math.inf
        bonus = math.sqrt(math.log(max(parent.visits, 1)) / child.visits)
        return child.total / child.visits + self._exploration * bonus

    # Playing in the copy.

    async def _expand(self, search: _Search, conversation: Conversation, node: _Node) -> None:
        """Make the children of a state, and value them. A state in which nothing can be said has none."""
        try:
            replies = await self._ask(search, conversation, node, self._branch)
        except ContextFull:
            if node is search.root:
                raise
            node.children = []
            return
        distinct: dict[str, Reply] = {}
        for reply in replies:
            if reply is not None:
                call = read_call(conversation.env, writable(reply.text))
                key = (
                    reply.text
                    if call is None
                    else json.dumps([call.tool, call.arguments], sort_keys=True, default=repr)
                )
                distinct.setdefault(key, reply)
        node.children = [await self._play(search, conversation, node, reply) for reply in distinct.values()]
        if not isinstance(self._guide, str):
            rows = await self._guide(
                conversation.env, [unfinished(conversation, child.turns) for child in node.children]
            )
            for child, row in zip(node.children, rows, strict=True):
                child.value = fsum(x for x in row if x is not None)
            return
        for child in node.children:
            if self._guide == "reward":
                child.value = child.reward
            else:
                child.value = await self._to_the_end(search, conversation, child)

    async def _ask(
        self, search: _Search, conversation: Conversation, node: _Node, n: int
    ) -> list[Reply | None]:
        snapshot = node.snapshot
        assert snapshot is not None
        # Agents that read the environment find the state that they are asked about.
        await search.run(lambda: search.env.restore(snapshot))
        branches = []
        for _ in range(n):
            search.drawn += 1
            branches.append(
                Conversation(
                    node.messages,
                    id=f"{conversation.id}/{search.drawn}",
                    seed=agent_seed(search.seed, "search", search.drawn),
                    env=search.env,
                    history=node.turns,
                )
            )
        replies = await ask(self.inner, branches)
        for reply in replies:
            if reply is not None:
                search.asked.append(reply)
                search.calls += 1
                search.tokens += reply.input_tokens + reply.output_tokens
        return replies

    async def _play(self, search: _Search, conversation: Conversation, node: _Node, reply: Reply) -> _Node:
        """The state behind an action."""
        env, text, before = search.env, writable(reply.text), node.snapshot
        assert before is not None
        search.drawn += 1
        seed = agent_seed(search.seed, "chance", search.drawn)

        def play() -> _Node:
            env.restore(before)
            env.np_random = np.random.Generator(np.random.PCG64(seed))
            observation, reward, terminated, truncated, info = env.step(text)
            done = terminated or truncated
            turn = turn_of(node.messages[-1]["content"], reply, env)
            answered = [
                {"role": "assistant", "content": text},
                {"role": env.observation_role, "content": observation},
            ]
            return _Node(
                [*node.messages, *answered],
                (*node.turns, turn),
                None if done else env.snapshot(),
                info["state_key"],
                reply,
                score=info["score"] if done else None,
                success=bool(done and info["success"]),
                reward=node.reward + reward,
            )

        search.turns += 1
        return await search.run(play)

    async def _to_the_end(self, search: _Search, conversation: Conversation, node: _Node) -> float:
        """The true score that the agent comes to from here."""
        while node.score is None:
            try:
                (reply,) = await self._ask(search, conversation, node, 1)
            except ContextFull:
                snapshot = node.snapshot
                assert snapshot is not None

                def cut_off(snapshot: dict[str, Any] = snapshot) -> float:
                    search.env.restore(snapshot)
                    return search.env.cut_off()[0]

                return await search.run(cut_off)
            assert reply is not None
            node = await self._play(search, conversation, node, reply)
        return node.score
