"""What an environment can draw of a recorded state, for the viewer: descriptions, never markup.

A picture is made from what stands in a trajectory, observation and state key, so a file is drawn without playing it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Grid(NamedTuple):
    """A board seen from above.

    Attributes:
        cells: rows of cells. A cell names what lies there, the ground first, joined by `+`: `ice`, `floor+box`,
            `target+player`. Grounds: floor, wall, ice, hole, target, goal. Things: box, player; any other text is
            written into the cell, as `floor+7`.
    """

    cells: tuple[tuple[str, ...], ...]
    kind: Literal["grid"] = "grid"


class Page(NamedTuple):
    """A page of a web site.

    Attributes:
        parts: role (`heading`, `text`, `button`) and text, in reading order.
    """

    parts: tuple[tuple[Literal["heading", "text", "button"], str], ...]
    kind: Literal["page"] = "page"


Picture = Grid | Page
