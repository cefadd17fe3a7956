"""The families of generated programming tasks, by topic."""

from __future__ import annotations

from .dynamic import DYNAMIC, RECURSION
from .family import Difficulty, Family
from .graphs import GRAPHS
from .lists import LISTS
from .matrices import MATRICES
from .numbers import NUMBERS
from .order import INTERVALS, SORTING
from .parsing import PARSING
from .simulation import DATES, SIMULATION
from .strings import STRINGS
from .tables import TABLES

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *NUMBERS, *STRINGS, *LISTS, *TABLES, *RECURSION, *DYNAMIC,
        *GRAPHS, *PARSING, *SIMULATION, *DATES, *MATRICES, *SORTING, *INTERVALS,
    )
}  # fmt: skip
"""By name."""

__all__ = ["FAMILIES", "Difficulty", "Family"]
