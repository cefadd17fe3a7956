"""`Cooking-v1`: find the ingredients of a recipe, prepare each as it says, and make the meal."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_FOODS = (
    "apple", "bacon", "banana", "beetroot", "carrot", "cheese", "chicken", "egg", "fennel", "garlic", "leek", "lemon",
    "lettuce", "mushroom", "onion", "parsley", "pear", "pepper", "pork", "potato", "pumpkin", "salmon", "spinach",
    "tomato", "tuna", "turnip",
)  # fmt: skip
_ROOMS = ("kitchen", "yard", "pantry", "garden", "cellar", "shed", "hall", "larder")
_CUTS = ("chopped", "diced", "sliced")
_HEATS = {"fried": "kitchen", "roasted": "kitchen", "grilled": "yard"}
"""How an ingredient is cooked, and the room whose stove, oven or grill does it."""
_SIZES = {"easy": (3, 2, 2), "medium": (5, 3, 4), "hard": (8, 5, 8)}
"""Rooms, ingredients, and other foods that lie about, by level."""


class Ingredient(NamedTuple):
    """A food, where it lies, and how it is wanted; an empty text where it is left as it is."""

    food: str
    room: str
    cut: str
    heat: str


class Kitchen(NamedTuple):
    """A house and a recipe. `doors` holds pairs of rooms; `others` are foods that the recipe does not want, with their rooms."""

    rooms: tuple[str, ...]
    doors: tuple[tuple[str, str], ...]
    recipe: tuple[Ingredient, ...]
    others: tuple[tuple[str, str], ...]
    start: str
    told: bool


class Cooking(Puzzle[Kitchen]):
    """Cook a meal: read the recipe in the kitchen, fetch the ingredients, cut and cook each as it says, and serve.

    Observation: the room, what lies there, where doors lead to and what you carry, such as `You are in the pantry. Here: egg.
        Doors: kitchen, hall. You carry: carrot (sliced).`; before it what your last action came to. The recipe is shown
        when it is read and not again: it has to be remembered or read once more.
    Tools: `go(room)`, `take(food)`, `read()` in the kitchen, `cut(food, how)` in the kitchen, `cook(food, how)` with fried and
        roasted in the kitchen and grilled in the yard, `serve()` in the kitchen. What cannot be done here and now is an
        invalid call.
    Reward: 1 for the meal, else 0. With `reward="step"` the change of a potential is added: the share of what is to be done
        that is done (the recipe read once; each ingredient taken, cut and cooked).
    Score: of an episode that does not end with the meal, that share.
    Terminated: the meal is served (success); an ingredient was cut or cooked in a way that the recipe does not want, or cooked
        twice, and is spoilt. Serving before all is ready is an invalid call. Truncated: `max_turns`.
    Levels: 3 rooms and 2 ingredients, 5 and 3, 8 and 5, with 2, 4 and 8 other foods; on hard the recipe does not say where the
        ingredients are. 20, 35 and 60 turns.
    State key: house, place, what is carried and what was done with it. Expert: reads, fetches the ingredients in the order of
        the recipe, and prepares each in turn; it knows where they are.
    Source: First TextWorld Problems (Trischler et al., 2019); the house and the rules are ours.
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 20, "medium": 35, "hard": 60}
    rules = (
        "Cook the meal of the recipe that lies in the kitchen. Fetch every ingredient, cut it in the kitchen and cook it (fried or"
        " roasted in the kitchen, grilled in the yard) exactly as the recipe says, then serve in the kitchen."
    )

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Kitchen:
        number, wanted, others = _SIZES[level]
        rooms = _ROOMS[:number]
        doors = tuple((rooms[draws.below(i)], rooms[i]) for i in range(1, number))
        foods = draws.shuffled(_FOODS)[: wanted + others]
        recipe = []
        for food in foods[:wanted]:
            cut = draws.pick(("", *_CUTS))
            heat = draws.pick(("", *_HEATS)) if cut else draws.pick(tuple(_HEATS))
            recipe.append(Ingredient(food, draws.pick(rooms), cut, heat))
        lying = sorted((food, draws.pick(rooms)) for food in foods[wanted:])
        return Kitchen(rooms, doors, tuple(recipe), tuple(lying), draws.pick(rooms), level != "hard")

    @classmethod
    def solution(cls, instance: Kitchen) -> list[str]:
        """What the expert does, each action as words."""
        state = _State(instance.start, False, {}, False)
        actions = []
        while (words := _next(instance, state)) is not None:
            actions.append(" ".join(words))
            state = _after(state, words)
        return actions

    @classmethod
    def _holds(cls, instance: Kitchen, solution: Sequence[str]) -> bool:
        """Whether these actions are all possible and end with the meal."""
        room, held, served = instance.start, {}, False
        where = {i.food: i.room for i in instance.recipe} | dict(instance.others)
        for action in solution:
            if served:
                return False
            verb, *rest = action.split()
            if verb == "go":
                if (room, rest[0]) not in instance.doors and (rest[0], room) not in instance.doors:
                    return False
                room = rest[0]
            elif verb == "take":
                if where.pop(rest[0], None) != room:
                    return False
                held[rest[0]] = ["", ""]
            elif verb in ("cut", "cook"):
                place = _HEATS[rest[1]] if verb == "cook" else "kitchen"
                step = verb == "cook"
                if room != place or held[rest[0]][step]:
                    return False
                held[rest[0]][step] = rest[1]
            elif verb == "read":
                if room != "kitchen":
                    return False
            else:
                ready = all(held.get(i.food) == [i.cut, i.heat] for i in instance.recipe)
                if verb != "serve" or room != "kitchen" or not ready:
                    return False
                served = True
        return served

    def begin(self, instance: Kitchen) -> str:
        """Say what the house is like and where you are."""
        self.state = _State(instance.start, False, {}, False)
        self.to_do = 1 + sum(1 + bool(i.cut) + bool(i.heat) for i in instance.recipe)
        return f"The rooms: {', '.join(instance.rooms)}. The recipe lies in the kitchen.\n{self._report()}"

    def _report(self) -> str:
        room, _, held, _ = self.state
        here = [food for food, place in self._lying() if place == room and food not in held]
        carried = [_described(food, *how) for food, how in held.items()]
        return (
            f"You are in the {room}. Here: {', '.join(here) or 'nothing'}. Doors: {', '.join(_doors(self.instance, room))}."
            f" You carry: {', '.join(carried) or 'nothing'}."
        )

    def _lying(self) -> list[tuple[str, str]]:
        return sorted([*((i.food, i.room) for i in self.instance.recipe), *self.instance.others])

    def _ready(self) -> bool:
        return all(self.state.held.get(i.food) == (i.cut, i.heat) for i in self.instance.recipe)

    def _refused(self, why: str) -> Outcome:
        return Outcome(f"{why} {self._report()}", invalid=True)

    def _done(self, words: tuple[str, ...], said: str) -> Outcome:
        self.state = _after(self.state, words)
        return Outcome(f"{said} {self._report()}".lstrip())

    @tool
    def go(self, room: str) -> Outcome:
        """Go through a door.

        Args:
            room: where to.
        """
        room = room.strip().lower()
        if room not in _doors(self.instance, self.state.room):
            return self._refused(f"No door leads to {room[:20]!r}.")
        return self._done(("go", room), "")

    @tool
    def take(self, food: str) -> Outcome:
        """Take a food that lies here.

        Args:
            food: its name.
        """
        food = food.strip().lower()
        if (food, self.state.room) not in self._lying() or food in self.state.held:
            return self._refused(f"There is no {food[:20]!r} here.")
        return self._done(("take", food), "Taken.")

    @tool
    def read(self) -> Outcome:
        """Read the recipe, in the kitchen."""
        if self.state.room != "kitchen":
            return self._refused("The recipe lies in the kitchen.")
        lines = []
        for food, room, cut, heat in self.instance.recipe:
            where = f" from the {room}" if self.instance.told else ""
            lines.append(f"{_described(food, cut, heat)}{where}")
        return self._done(("read",), f"The recipe: {'; '.join(lines)}.")

    @tool
    def cut(self, food: str, how: Literal["chopped", "diced", "sliced"]) -> Outcome:
        """Cut a food that you carry, in the kitchen.

        Args:
            food: its name.
            how: the cut.
        """
        return self._prepared("cut", food, how, "kitchen", 0)

    @tool
    def cook(self, food: str, how: Literal["fried", "roasted", "grilled"]) -> Outcome:
        """Cook a food that you carry: fried or roasted in the kitchen, grilled in the yard.

        Args:
            food: its name.
            how: the way.
        """
        return self._prepared("cook", food, how, _HEATS[how], 1)

    def _prepared(self, verb: str, food: str, how: str, place: str, step: int) -> Outcome:
        food = food.strip().lower()
        if food not in self.state.held:
            return self._refused(f"You carry no {food[:20]!r}.")
        if self.state.room != place:
            return self._refused(f"That is done in the {place}.")
        wanted = next(((i.cut, i.heat) for i in self.instance.recipe if i.food == food), None)
        if wanted is not None and (wanted[step] != how or self.state.held[food][step]):
            self.state = _after(self.state, (verb, food, how))
            return Outcome(
                f"The {food} is spoilt: the recipe wants it otherwise.", success=False, score=self.score()
            )
        return self._done((verb, food, how), f"The {food} is {how}.")

    @tool
    def serve(self) -> Outcome:
        """Make the meal of all ingredients, in the kitchen."""
        if self.state.room != "kitchen":
            return self._refused("Meals are served in the kitchen.")
        if not self._ready():
            return self._refused("Not all ingredients are ready.")
        self.state = _after(self.state, ("serve",))
        return Outcome("The meal is served.", reward=1.0, success=True)

    def potential(self) -> float:
        """Share of what is to be done that is done."""
        held = self.state.held
        done = int(self.state.was_read)
        for food, _, cut, heat in self.instance.recipe:
            if food in held:
                done += 1 + bool(cut and held[food][0] == cut) + bool(heat and held[food][1] == heat)
        return done / self.to_do

    def score(self) -> float:
        """Share of what is to be done that is done; 1 is left for the meal itself."""
        return self.potential() * self.to_do / (self.to_do + 1)

    def state_key(self) -> Hashable:
        """House, place, what is carried and how it is."""
        room, was_read, held, served = self.state
        return self.instance, room, was_read, tuple(sorted(held.items())), served

    def legal(self) -> list[Call]:
        """What can be done here and now."""
        room, _, held, _ = self.state
        calls = [Call("go", {"room": beside}) for beside in _doors(self.instance, room)]
        calls += [Call("take", {"food": f}) for f, place in self._lying() if place == room and f not in held]
        for food, (cut, heat) in held.items():
            if room == "kitchen" and not cut:
                calls += [Call("cut", {"food": food, "how": how}) for how in _CUTS]
            if not heat:
                calls += [
                    Call("cook", {"food": food, "how": h}) for h, place in _HEATS.items() if place == room
                ]
        if room == "kitchen":
            calls.append(Call("read", {}))
            if self._ready():
                calls.append(Call("serve", {}))
        return calls

    def expert(self) -> Call | None:
        """The next action of its plan."""
        words = _next(self.instance, self.state)
        if words is None:
            return None
        verb, *rest = words
        names = {"go": ("room",), "take": ("food",), "cut": ("food", "how"), "cook": ("food", "how")}.get(
            verb, ()
        )
        return Call(verb, dict(zip(names, rest, strict=True)))


class _State(NamedTuple):
    """Where you are, whether the recipe was read, what is carried (cut, cooked), and whether the meal is served."""

    room: str
    was_read: bool
    held: Mapping[str, tuple[str, str]]
    served: bool


def _after(state: _State, words: Sequence[str]) -> _State:
    """The state after an action that is possible."""
    verb, *rest = words
    held = dict(state.held)
    match verb:
        case "go":
            return state._replace(room=rest[0])
        case "take":
            held[rest[0]] = ("", "")
        case "cut":
            held[rest[0]] = (rest[1], held[rest[0]][1])
        case "cook":
            held[rest[0]] = (held[rest[0]][0], rest[1])
        case "read":
            return state._replace(was_read=True)
        case "serve":
            return state._replace(served=True)
    return state._replace(held=held)


def _next(kitchen: Kitchen, state: _State) -> tuple[str, ...] | None:
    """What the expert does: read, then fetch and prepare, then serve; None when the meal is served."""
    if state.served:
        return None
    if not state.was_read:
        return ("read",) if state.room == "kitchen" else ("go", _towards(kitchen, state.room, "kitchen"))
    for food, room, _, _ in kitchen.recipe:
        if food not in state.held:
            return ("take", food) if state.room == room else ("go", _towards(kitchen, state.room, room))
    for place in ("kitchen", "yard"):
        for food, _, cut, heat in kitchen.recipe:
            have = state.held[food]
            words: tuple[str, ...] | None = None
            if cut and not have[0]:
                words, where = ("cut", food, cut), "kitchen"
            elif heat and not have[1]:
                words, where = ("cook", food, heat), _HEATS[heat]
            if words is not None and where == place:
                return words if state.room == place else ("go", _towards(kitchen, state.room, place))
    return ("serve",) if state.room == "kitchen" else ("go", _towards(kitchen, state.room, "kitchen"))


def _doors(kitchen: Kitchen, room: str) -> list[str]:
    return [b if a == room else a for a, b in kitchen.doors if room in (a, b)]


def _towards(kitchen: Kitchen, start: str, goal: str) -> str:
    """The next room on the way, in a house without circles."""
    came = {goal: goal}
    queue = [goal]
    for room in queue:
        for beside in _doors(kitchen, room):
            if beside not in came:
                came[beside] = room
                queue.append(beside)
    return came[start]


def _described(food: str, cut: str, heat: str) -> str:
    how = ", ".join(part for part in (cut, heat) if part)
    return f"{food} ({how})" if how else food
