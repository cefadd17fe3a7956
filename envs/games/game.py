"""`Game`: the rules of a game for several seats, which is also an environment for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter
from ..tasks import Task, split_of
from ..tools import Call

_TRIES = 5_000


class Game(TurnEnv):
    """The base of the games.

    A game says who moves, what each seat sees, which calls are legal and what the end is worth; its tools hand a call to
    `_take`. As an environment it seats the agent in one seat and a scripted opponent in the others. `match` plays it with an
    agent in every seat.

    Reward: in the last turn, the utility of the agent's seat in [0, 1]: 1 for a win, 0.5 for a draw, 0 for a loss, or what
    the game says. It is the score too. Success: a utility above 0.5.

    Attributes:
        seat: the agent's seat; `task` gives each task one of the seats.
        opponent: who sits in the other seats: `random` makes any legal move, `expert` the game's own best.
        illegal: what an illegal move costs: `again` the turn, `forfeit` the game.
        roles: name of each seat.
    """

    seat: int | Literal["task"] = "task"
    opponent: Literal["random", "expert"] = "random"
    illegal: Literal["again", "forfeit"] = "again"

    roles: ClassVar[tuple[str, ...]]

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        if self.seat != "task" and not 0 <= self.seat < len(self.roles):
            raise InvalidParameter(
                f"seat={self.seat} is none of this game's; it has 0 to {len(self.roles) - 1} ({', '.join(self.roles)}), or 'task'"
            )
        self.everyone = False
        """Whether every seat is moved from outside, as `match` does: it sets `me` before each step."""

    # What a game writes.

    def deal(self, draws: np.random.Generator) -> None:
        """Set up the first position; all that is random about it comes from `draws`, which is seeded by the task."""
        raise NotImplementedError

    def content(self) -> str:
        """What makes the task, by which it falls into a split; by default what the seats see at first."""
        return repr([self.view(seat) for seat in range(len(self.roles))])

    def movers(self) -> tuple[int, ...]:
        """The seats that move now: one, or several at the same time; none when the game is over."""
        raise NotImplementedError

    def view(self, seat: int) -> str:
        """What a seat sees."""
        raise NotImplementedError

    def legal(self, seat: int) -> Sequence[Call]:
        """The moves of a seat that moves now."""
        raise NotImplementedError

    def refused(self, seat: int, call: Call) -> str | None:
        """Why a move is illegal, as a sentence for the agent; None where it is legal."""
        return None if call in self.legal(seat) else "That move is not possible."

    def play(self, seat: int, call: Call) -> None:
        """Make a legal move."""
        raise NotImplementedError

    def utilities(self) -> tuple[float, ...]:
        """What the end is worth to each seat, in [0, 1]."""
        raise NotImplementedError

    def best(self, seat: int) -> Call:
        """The move that the game's own player makes; it sees what the seat sees."""
        raise NotImplementedError

    # The environment of one seat.

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Deal, seat the agent, and let the others move first where they do."""
        self.forfeited: int | None = None
        for attempt in range(_TRIES):
            self.deal(np.random.Generator(np.random.PCG64([task.seed, attempt])))
            if split_of(self.content()) == task.split:
                break
        else:
            raise InvalidParameter(
                f"no position of {self.env_id} was found for the split {task.split!r} in {_TRIES:,} tries; there are too few"
            )
        self.me = task.seed % len(self.roles) if self.seat == "task" else self.seat
        if not self.everyone:
            self._others_move()
        return self.first_view(self.me)

    @property
    def role(self) -> str:
        """Name of the agent's seat."""
        return self.roles[self.me]

    def first_view(self, seat: int) -> str:
        """What a seat sees first: who it is, and its view."""
        return f"You are {self.roles[seat]}.\n{self.view(seat)}"

    def over(self) -> bool:
        """Whether the game has ended."""
        return self.forfeited is not None or not self.movers()

    def result(self) -> tuple[float, ...]:
        """What the end is worth to each seat; who forfeits gets 0 and the others 1."""
        if self.forfeited is not None:
            return tuple(float(seat != self.forfeited) for seat in range(len(self.roles)))
        return self.utilities()

    def _take(self, call: Call) -> Outcome:
        why = self.refused(self.me, call)
        if why is not None and self.illegal == "again":
            return Outcome(f"{why}\n{self.view(self.me)}", invalid=True)
        if why is not None:
            self.forfeited = self.me
        else:
            self.play(self.me, call)
            if not self.everyone:
                self._others_move()
        if not self.over():
            return Outcome(self.view(self.me))
        utility = self.result()[self.me]
        lost = f"{why} You lose the game.\n" if why is not None else ""
        said = (
            "You win."
            if utility == 1
            else "You lose."
            if utility == 0
            else f"The game ends; you get {utility:g}."
        )
        return Outcome(
            f"{lost}{self.view(self.me)}\n{said}",
            reward=utility,
            success=utility > 0.5,
            score=utility,
            invalid=bool(why),
        )

    def _others_move(self) -> None:
        while (seats := self.movers()) and (self.me not in seats or len(seats) > 1):
            # At the same time: the others choose by what they see, which does not show the agent's move.
            for seat in seats:
                if seat != self.me:
                    self.play(seat, self._scripted(seat))
            if self.me in seats:
                return

    def _scripted(self, seat: int) -> Call:
        if self.opponent == "expert":
            return self.best(seat)
        calls = self.legal(seat)
        return calls[int(self.np_random.integers(len(calls)))]

    def sample_action(self, rng: np.random.Generator) -> str:
        """A legal move; before an episode, and in one of ten turns, anything well-formed."""
        if not self._running or rng.random() < 0.1 or self.me not in self.movers():
            return super().sample_action(rng)
        calls = self.legal(self.me)
        return self.write(calls[int(rng.integers(len(calls)))])

    def expert(self) -> Call | None:
        """The game's own best move for the agent's seat."""
        return self.best(self.me) if self.me in self.movers() else None
