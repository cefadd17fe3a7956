"""Goals: what an instruction asks for, and their order, which decides the split."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from ..errors import UnknownTask
from ..tasks import Task, TaskSet
from .catalogue import Catalogue

PRICE_BOUNDS = tuple(10.0 * i for i in range(1, 100))
"""The bounds that an instruction can name, in dollars."""

NO_BOUND = 1_000_000.0
"""The bound of a goal that names none."""


class Goal(NamedTuple):
    """What an instruction asks for.

    Attributes:
        row: the product it was made from.
        instruction: what the agent is told.
        attributes: at least one.
        options: values, or values by option name (the original's synthetic goals).
        price_upper: in dollars; `NO_BOUND` for none.
    """

    row: int
    instruction: str
    attributes: list[str]
    options: list[str] | dict[str, str]
    price_upper: float

    def as_original(self, catalogue: Catalogue) -> dict[str, Any]:
        """With the original's keys, as `reward.reward` takes it."""
        product = catalogue.product(self.row)
        return {
            "asin": product["asin"],
            "category": product["category"],
            "query": product["query"],
            "name": product["Title"],
            "product_category": product["product_category"],
            "instruction_text": self.instruction,
            "attributes": self.attributes,
            "price_upper": self.price_upper,
            "goal_options": self.options,
        }


def price_bound(price: float, rng: Random) -> tuple[float, str]:
    """A bound above the price, and how the instruction says it: of the next four multiples of 10 the larger of two."""
    above = [bound for bound in PRICE_BOUNDS if bound > price][:4]
    if len(above) < 2:
        return NO_BOUND, ""
    bound = max(rng.sample(above, 2))
    return bound, f", and price lower than {bound:.2f} dollars"


class Goals:
    """The goals of a catalogue in their order.

    A line of `catalogue.goals` gives one goal, or, where it says `"options": null`, one per combination of the product's
    options; `count` says how many. `catalogue.order` lists places among all goals so numbered.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._order = catalogue.order
        self._combined = (catalogue.folder / "firsts.npy").is_file()
        if self._combined:
            import numpy as np

            self._firsts = np.load(catalogue.folder / "firsts.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Goal:
        place = int(self._order[index])
        if not self._combined:
            return Goal(**json.loads(self._catalogue.goals[place]))
        line = int(self._firsts.searchsorted(place, "right")) - 1
        base = json.loads(self._catalogue.goals[line])
        values = self._catalogue.product(base["row"])["options"]
        chosen = combination(values, place - int(self._firsts[line]))
        said = ", and ".join(f"{name}: {value}" for name, value in chosen.items())
        instruction = base["instruction"] + (f" with {said}" if said else "") + base["price_text"]
        return Goal(base["row"], instruction, base["attributes"], chosen, base["price_upper"])


def combinations(options: Mapping[str, Sequence[str]]) -> int:
    """How many ways there are to choose a value of every option."""
    return math.prod(len(values) for values in options.values())


def combination(options: Mapping[str, Sequence[str]], place: int) -> dict[str, str]:
    """The combination at a place of `itertools.product` over the options in order of their names."""
    chosen = {}
    for name in sorted(options, reverse=True):
        place, at = divmod(place, len(options[name]))
        chosen[name] = options[name][at]
    return dict(reversed(chosen.items()))


def split_sizes(goals: int, block: int) -> dict[str, int]:
    """Goals of each split, in the order in which they lie: test, val, train.

    The original's full set has 500 goals to test, 1,000 to validate and the rest to train. Where there are fewer than
    3,000, a sixth and a third are taken, so that no split is empty. Borders fall between blocks of goals that belong
    together.
    """
    blocks = goals // block
    test = min(500 // block, max(1, blocks // 6))
    val = min(1000 // block, max(1, blocks // 3))
    return {"test": test * block, "val": val * block, "train": goals - (test + val) * block}


class GoalTasks(TaskSet):
    """Tasks `goal-N`: N is the goal's place in the order, which is the original's session number."""

    def __init__(self, goals: Goals, catalogue: Catalogue, block: int) -> None:
        self._goals = goals
        self._catalogue = catalogue
        self._sizes = split_sizes(len(goals), block)
        self._first = {
            "test": 0,
            "val": self._sizes["test"],
            "train": self._sizes["test"] + self._sizes["val"],
        }

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of goals by split."""
        return {name: self._sizes[name] for name in ("train", "val", "test")}

    def get(self, split: str, index: int) -> Task:
        """The task at a place of its split."""
        size = self.size(split)
        if not 0 <= index < size:
            raise UnknownTask(f"no task {index} in split {split!r}; indices run from 0 to {size - 1}")
        return self._task(split, self._first[split] + index)

    def find(self, task_id: str) -> Task:
        """The task `goal-N`."""
        kind, _, number = str(task_id).rpartition("-")
        if kind != "goal" or not number.isdecimal() or not 0 <= int(number[:12]) < len(self._goals):
            raise UnknownTask(
                f"no task {task_id!r:.80}; tasks are called goal-0 to goal-{len(self._goals) - 1}"
            )
        index = int(number[:12])
        split = next(name for name in ("train", "val", "test") if index >= self._first[name])
        return self._task(split, index)

    def _task(self, split: str, index: int) -> Task:
        goal = self._goals[index]
        card = self._catalogue.card(goal.row)
        # Where the instruction holds the whole title, as in short catalogues, the number of the product is the answer.
        answer = card.asin if card.title.lower() in goal.instruction.lower() else card.title
        options = len(goal.options)
        return Task(
            f"goal-{index}",
            split,
            index,
            goal.instruction,
            {"goal": goal},
            reference=(answer,),
            family=self._catalogue.product(goal.row)["category"],
            difficulty=f"{options} {'option' if options == 1 else 'options'}",
        )
