"""`KuhnPoker-v1`: poker with three cards, the smallest game in which one has to bluff."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ..core import Outcome
from ..tools import Call, tool
from .game import Game

_CARDS = "JQK"
_PAYS: Mapping[str, int] = {"pp": 1, "bb": 2, "pbb": 2}
"""Chips that the higher card wins by the history of the betting; `bp` and `pbp` are folds, which win one chip."""


class KuhnPoker(Game):
    """Poker with the cards J, Q, K: each player gets one, and the third stays hidden; several hands.

    Observation: the number of the hand, your card, the pot, what was done so far in it, and your chips from the hands before, with
        what the last one came to.
    Tools: `act(action)`: `pass` checks, or folds after a bet; `bet` bets one chip, or calls a bet.
    Reward: in the last turn the chips that were won over all hands, from -2 to 2 a hand, as a number in [0, 1]; 0.5 is even.
    Terminated: after `hands` hands; a hand ends with two passes, a fold, or a call, and the higher card wins the pot. The players
        begin in turn. Truncated: `max_turns` (24 as registered). Success: chips were won.
    Task: the cards of all hands.
    State key: all cards, all betting and the seat. Expert: the equilibrium strategy with alpha = 1/3 (bets a third of the jacks and
        all kings when it begins); what it mixes follows from the task and the hand.
    Source: Kuhn, A Simplified Two-Person Poker (1950).
    """

    hands: Annotated[int, Field(ge=1, le=50)] = 10

    roles = ("first", "second")
    rules = (
        "Two players get one of the cards J, Q, K each and pay one chip into the pot. `pass` checks, or folds after a bet; `bet`"
        " bets one more chip, or calls a bet. The higher card wins the pot. Win chips over several hands."
    )

    def deal(self, draws: np.random.Generator) -> None:
        """Two of the three cards, for every hand."""
        self.cards = ["".join(_CARDS[int(i)] for i in draws.permutation(3)[:2]) for _ in range(self.hands)]
        # One number a hand and seat: what the two mix must not hang together.
        self.mix = draws.random((self.hands, 2)).tolist()
        self.betting = [""]

    def content(self) -> str:
        """The cards of all hands."""
        return repr(self.cards)

    def _hand(self) -> int:
        return len(self.betting) - 1

    def movers(self) -> tuple[int, ...]:
        """In turn within a hand; the seats begin hands in turn."""
        if self._hand() == self.hands:
            return ()
        return ((self._hand() + len(self.betting[-1])) % 2,)

    def view(self, seat: int) -> str:
        """One's own card, the betting, and the chips so far."""
        hand = self._hand()
        said = []
        if hand:
            chips = _chips(self.cards[hand - 1], self.betting[hand - 1], (hand - 1) % 2)[seat]
            said.append(f"Last hand: {chips:+d}. Your chips: {self._won(seat):+d}.")
        if hand < self.hands:
            betting = self.betting[-1]
            done = [
                f"{'you' if (hand + i) % 2 == seat else 'the other'} {'pass' if action == 'p' else 'bet'}"
                for i, action in enumerate(betting)
            ]
            said.append(
                f"Hand {hand + 1} of {self.hands}. Your card: {self.cards[hand][seat]}. Pot: {2 + betting.count('b')}."
                f" So far: {', '.join(done) or 'nothing'}."
            )
        return " ".join(said)

    def legal(self, seat: int) -> list[Call]:
        """Pass and bet."""
        return [Call("act", {"action": action}) for action in ("pass", "bet")]

    def play(self, seat: int, call: Call) -> None:
        """Note it down; a hand that is over makes room for the next."""
        self.betting[-1] += call.arguments["action"][0]
        if self.betting[-1] in ("pp", "bb", "bp", "pbb", "pbp"):
            self.betting.append("")

    @tool
    def act(self, action: Literal["pass", "bet"]) -> Outcome:
        """Check or fold, or bet or call.

        Args:
            action: pass or bet.
        """
        return self._take(Call("act", {"action": action}))

    def _won(self, seat: int) -> int:
        hands = range(self._hand())
        return sum(_chips(self.cards[hand], self.betting[hand], hand % 2)[seat] for hand in hands)

    def utilities(self) -> tuple[float, float]:
        """The chips won as a number in [0, 1]."""
        most = 2 * self.hands
        chips = self._won(0)
        return (most + chips) / (2 * most), (most - chips) / (2 * most)

    def state_key(self) -> Hashable:
        """Cards, betting and seat."""
        return tuple(self.cards), tuple(self.betting), self.me

    def best(self, seat: int) -> Call:
        """The equilibrium with alpha = 1/3."""
        chance = {
            "": {"J": 1 / 3, "Q": 0.0, "K": 1.0},
            "p": {"J": 1 / 3, "Q": 0.0, "K": 1.0},
            "b": {"J": 0.0, "Q": 1 / 3, "K": 1.0},
            "pb": {"J": 0.0, "Q": 2 / 3, "K": 1.0},
        }[self.betting[-1]][self.cards[self._hand()][seat]]
        return Call("act", {"action": "bet" if self.mix[self._hand()][seat] < chance else "pass"})


def _chips(cards: str, betting: str, begins: int) -> tuple[int, int]:
    """What a hand won each seat; `begins` is the seat that moved first."""
    if betting in _PAYS:
        winner = 0 if _CARDS.index(cards[0]) > _CARDS.index(cards[1]) else 1
        chips = _PAYS[betting]
    else:
        winner = begins if betting == "bp" else 1 - begins
        chips = 1
    return (chips, -chips) if winner == 0 else (-chips, chips)
