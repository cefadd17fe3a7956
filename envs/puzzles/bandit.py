"""`Bandit-v1`: find the best arm of a bandit from noisy payoffs and an adviser who is sometimes wrong."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import exp, log
from typing import Any, ClassVar, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_COLOURS = (
    "amber",
    "black",
    "blue",
    "brown",
    "green",
    "grey",
    "pink",
    "purple",
    "red",
    "silver",
    "white",
    "yellow",
)


class _Level(NamedTuple):
    arms: int
    best: float
    others: float
    advice: float


_LEVELS = {
    "easy": _Level(3, 0.9, 0.3, 0.8),
    "medium": _Level(4, 0.8, 0.4, 0.6),
    "hard": _Level(6, 0.7, 0.45, 0.5),
}


class Arms(NamedTuple):
    """Arms by colour, and which of them is the best."""

    level: str
    colours: tuple[str, ...]
    best: str


class Bandit(Puzzle[Arms]):
    """Find the arm that pays most often, from single payoffs and the word of an adviser.

    Observation: first the arms, how often the best and the others pay and how often the adviser is right; then what a pull paid
        or whom the adviser named.
    Tools: `pull(arm)` pays 1 or 0; `ask()` has the adviser name an arm: the best one with the probability that was told, else
        one of the others; `choose(arm)` ends the episode. An arm that does not exist is an invalid call.
    Reward: 1 for choosing the best arm, else 0; payoffs are observations, not rewards. With `reward="step"` the change of a
        potential is added: the belief in the best arm that follows by Bayes' rule from all that was seen, from 0 for as likely
        as any other to 1 for certain.
    Terminated: an arm was chosen (success where it is the best). Truncated: `max_turns`.
    Levels: 3 arms that pay with 0.9 and 0.3, adviser right with 0.8; 4 with 0.8 and 0.4, 0.6; 6 with 0.7 and 0.45, 0.5; 8, 16 and
        28 turns.
    State key: the arms and what was seen of each. Expert: asks twice, pulls the arm it believes in most, and chooses it when it
        is 95 % sure or in the last turn. It sees no more than the agent, so it can be wrong.
    Source: best-arm identification (Audibert, Bubeck, Munos, 2010), with advice.
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 8, "medium": 16, "hard": 28}
    rules = "One arm pays more often than the others. Find out which by pulling arms and asking the adviser, then choose it."

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Arms:
        colours = tuple(draws.shuffled(_COLOURS)[: _LEVELS[level].arms])
        return Arms(level, colours, draws.pick(colours))

    @classmethod
    def solution(cls, instance: Arms) -> str:
        """The best arm."""
        return instance.best

    @classmethod
    def _holds(cls, instance: Arms, solution: Any) -> bool:
        """Whether this is the best arm."""
        return bool(solution == instance.best)

    def begin(self, instance: Arms) -> str:
        """Say what there is to know."""
        level = _LEVELS[instance.level]
        self.wins = dict.fromkeys(instance.colours, 0)
        self.losses = dict.fromkeys(instance.colours, 0)
        self.named = dict.fromkeys(instance.colours, 0)
        return (
            f"Arms: {', '.join(instance.colours)}. The best pays with probability {level.best}, the others with"
            f" {level.others}. The adviser is right with probability {level.advice}."
        )

    def _unknown(self, arm: str) -> Outcome:
        return Outcome(
            f"There is no arm {arm[:20]!r}. Arms: {', '.join(self.instance.colours)}.", invalid=True
        )

    @tool
    def pull(self, arm: str) -> Outcome:
        """Pull an arm.

        Args:
            arm: its colour.
        """
        arm = arm.strip().lower()
        if arm not in self.wins:
            return self._unknown(arm)
        level = _LEVELS[self.instance.level]
        pays = self.np_random.random() < (level.best if arm == self.instance.best else level.others)
        (self.wins if pays else self.losses)[arm] += 1
        return Outcome(f"{arm} pays {int(pays)}.")

    @tool
    def ask(self) -> Outcome:
        """Ask the adviser which arm is the best."""
        named = self.instance.best
        if self.np_random.random() >= _LEVELS[self.instance.level].advice:
            others = [c for c in self.instance.colours if c != named]
            named = others[int(self.np_random.integers(len(others)))]
        self.named[named] += 1
        return Outcome(f"The adviser says {named}.")

    @tool
    def choose(self, arm: str) -> Outcome:
        """Choose an arm, which ends the episode.

        Args:
            arm: its colour.
        """
        arm = arm.strip().lower()
        if arm not in self.wins:
            return self._unknown(arm)
        if arm == self.instance.best:
            return Outcome(f"{arm} is the best arm.", reward=1.0, success=True)
        return Outcome(f"{arm} is not the best arm; {self.instance.best} is.", success=False)

    def _beliefs(self) -> dict[str, float]:
        """The probability of each arm to be the best, given what was seen; before, all are as likely."""
        level = _LEVELS[self.instance.level]
        win, loss = log(level.best / level.others), log((1 - level.best) / (1 - level.others))
        named = log(level.advice * (level.arms - 1) / (1 - level.advice))
        weights = {
            c: exp(self.wins[c] * win + self.losses[c] * loss + self.named[c] * named)
            for c in self.instance.colours
        }
        whole = sum(weights.values())
        return {c: weight / whole for c, weight in weights.items()}

    def potential(self) -> float:
        """The belief in the best arm: 0 for as likely as any other, 1 for certain, below 0 where the signs are against it."""
        chance = 1 / len(self.instance.colours)
        return (self._beliefs()[self.instance.best] - chance) / (1 - chance)

    def state_key(self) -> Hashable:
        """The arms and what was seen of each."""
        return (
            self.instance,
            tuple(self.wins.values()),
            tuple(self.losses.values()),
            tuple(self.named.values()),
        )

    def reference(self) -> list[str]:
        """The best arm."""
        return [self.instance.best]

    def legal(self) -> list[Call]:
        """Every pull and choice, and the question."""
        arms = self.instance.colours
        return [Call("ask", {}), *(Call(name, {"arm": arm}) for name in ("pull", "choose") for arm in arms)]

    def expert(self) -> Call:
        """Ask twice, then pull the arm that is believed in most, until it is sure enough."""
        beliefs = self._beliefs()
        likely = max(beliefs, key=beliefs.__getitem__)
        if beliefs[likely] > 0.95 or self._turn >= self.max_turns - 1:
            return Call("choose", {"arm": likely})
        if sum(self.named.values()) < 2:
            return Call("ask", {})
        return Call("pull", {"arm": likely})
