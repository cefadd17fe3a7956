"""`Negotiation-v1`: share items out with someone who values them otherwise."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import product
from typing import Annotated

import numpy as np
from pydantic import Field

from ..core import Outcome
from ..tools import Call, tool
from .game import Game

_ITEMS = ("books", "hats", "balls")
_WORTH = 10
Count = Annotated[int, Field(ge=0)]


class Negotiation(Game):
    """Agree on who gets which items; each side knows only what they are worth to itself.

    Observation: how many items of each kind there are, what one of each is worth to you (10 in all), the last offer, and how many
        moves are left.
    Tools: `offer(books, hats, balls)`: what you would take, the rest goes to the other; `accept()` takes the other's last offer. More
        than there is, and accepting before there is an offer, are illegal moves.
    Reward: in the last turn the share that one's items are worth of one's 10; 0 for both where no deal is made in time.
    Terminated: an offer was accepted, or `rounds` moves of each side are over. Truncated: `max_turns` (7 as registered). Success: more
        than half of one's 10.
    Task: one to four items of each kind and values, drawn so that both value all together at 10 and no kind is worthless to both.
    State key: items, values of both, the offers and the seat. Expert: begins with all that is worth anything to it and gives up
        the kind of least worth, one kind a move; accepts an offer that is worth at least its own next one.
    Source: DealOrNoDeal (Lewis et al., 2017), scored by utility alone.
    """

    rounds: Annotated[int, Field(ge=1, le=10)] = 3

    roles = ("first", "second")
    rules = (
        "Two players share out books, hats and balls. The items are worth something else to each, 10 in all, and nobody knows what"
        " they are worth to the other. Offer what you would take, or accept the other's offer. Without a deal both get nothing."
    )

    def deal(self, draws: np.random.Generator) -> None:
        """Items, and values that both sum to 10."""
        while True:
            self.items = tuple(int(n) for n in draws.integers(1, 5, 3))
            values = [v for v in product(range(_WORTH + 1), repeat=3) if _sum(self.items, v) == _WORTH]
            if len(values) > 1:
                one, other = (values[int(i)] for i in draws.choice(len(values), 2, replace=False))
                if all(a or b for a, b in zip(one, other, strict=True)):
                    break
        self.values = (one, other)
        self.offers: list[tuple[int, ...]] = []
        self.accepted = False

    def movers(self) -> tuple[int, ...]:
        """In turn, until an offer is accepted or no move is left."""
        if self.accepted or len(self.offers) == 2 * self.rounds:
            return ()
        return (len(self.offers) % 2,)

    def view(self, seat: int) -> str:
        """Items, own values and the last offer."""
        items = ", ".join(f"{n} {name}" for n, name in zip(self.items, _ITEMS, strict=True))
        worth = ", ".join(f"{name} {v}" for name, v in zip(_ITEMS, self.values[seat], strict=True))
        said = "No offer yet."
        if self.offers:
            whose = "You" if (len(self.offers) - 1) % 2 == seat else "The other"
            parts = ", ".join(f"{n} {name}" for n, name in zip(self.offers[-1], _ITEMS, strict=True))
            said = f"{whose} would take {parts}."
        if self.accepted:
            said += " It was accepted."
        return f"Items: {items}. Worth of one to you: {worth}. {said} Moves left: {2 * self.rounds - len(self.offers)}."

    def legal(self, seat: int) -> list[Call]:
        """Every share, and the other's offer."""
        a, b, c = (range(n + 1) for n in self.items)
        calls = [Call("offer", {"books": x, "hats": y, "balls": z}) for x in a for y in b for z in c]
        return [*calls, Call("accept", {})] if self.offers else calls

    def refused(self, seat: int, call: Call) -> str | None:
        """Only what is there can be taken, and only an offer can be accepted."""
        if call.tool == "accept":
            return None if self.offers else "There is no offer yet."
        wanted = [call.arguments[name] for name in _ITEMS]
        too_many = any(n > have for n, have in zip(wanted, self.items, strict=True))
        return "There are not so many." if too_many else None

    def play(self, seat: int, call: Call) -> None:
        """Offer or accept."""
        if call.tool == "accept":
            self.accepted = True
        else:
            self.offers.append(tuple(call.arguments[name] for name in _ITEMS))

    @tool
    def offer(self, books: Count, hats: Count, balls: Count) -> Outcome:
        """Say what you would take; the rest goes to the other.

        Args:
            books: how many books.
            hats: how many hats.
            balls: how many balls.
        """
        return self._take(Call("offer", {"books": books, "hats": hats, "balls": balls}))

    @tool
    def accept(self) -> Outcome:
        """Take the other's last offer."""
        return self._take(Call("accept", {}))

    def _worth(self, seat: int, taken: tuple[int, ...]) -> int:
        return _sum(taken, self.values[seat])

    def utilities(self) -> tuple[float, float]:
        """What the shares are worth, of 10."""
        if not self.accepted:
            return 0.0, 0.0
        proposer = (len(self.offers) - 1) % 2
        rest = tuple(have - n for have, n in zip(self.items, self.offers[-1], strict=True))
        worth = [0.0, 0.0]
        worth[proposer] = self._worth(proposer, self.offers[-1]) / _WORTH
        worth[1 - proposer] = self._worth(1 - proposer, rest) / _WORTH
        return worth[0], worth[1]

    def state_key(self) -> Hashable:
        """Items, values, offers and seat."""
        return self.items, self.values, tuple(self.offers), self.accepted, self.me

    def best(self, seat: int) -> Call:
        """Give up one kind a move, the one of least worth first; accept what is worth as much."""
        kinds = sorted(range(3), key=lambda k: (self.values[seat][k] * self.items[k], k))
        given_up = set(kinds[: len(self.offers) // 2]) | {k for k in kinds if not self.values[seat][k]}
        mine = tuple(0 if k in given_up else n for k, n in enumerate(self.items))
        if self.offers:
            rest = tuple(have - n for have, n in zip(self.items, self.offers[-1], strict=True))
            last = len(self.offers) >= 2 * self.rounds - 1
            if self._worth(seat, rest) >= self._worth(seat, mine) or (last and self._worth(seat, rest)):
                return Call("accept", {})
        return Call("offer", dict(zip(_ITEMS, mine, strict=True)))


def _sum(items: tuple[int, ...], values: tuple[int, ...]) -> int:
    return sum(n * v for n, v in zip(items, values, strict=True))
