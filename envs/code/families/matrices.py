"""Families about matrices."""

from __future__ import annotations

from .family import family, matrix, of_topic

MATRICES = of_topic(
    "matrices",
    family(
        "turn",
        "medium",
        "rows: list[list[int]] -> list[list[int]]",
        "Turn the matrix by $q quarter turns clockwise, then $flip.",
        """
        for _ in range($q):
            rows = [list(row) for row in zip(*rows[::-1])]
        return {"leave it so": rows, "swap left and right": [row[::-1] for row in rows], "swap top and bottom": rows[::-1],
                "double every number": [[2 * n for n in row] for row in rows]}["$flip"]
        """,
        [
            ("rows[::-1])]", "rows)]"),
            ("range($q)", "range($q + 1)"),
            ("for row in zip(*rows[::-1])", "for row in list(zip(*rows))[::-1]"),
            ("range($q)", "range($q - 1)"),
        ],
        lambda r, p: (matrix(r, 4),),
        [([[1]],), ([[1, 2]],), ([[1], [2]],), ([[1, 2], [3, 4]],), ([[1, 2, 3], [4, 5, 6]],)],
        q=(1, 2, 3),
        flip=("leave it so", "swap left and right", "swap top and bottom", "double every number"),
    ),
    family(
        "spiral",
        "hard",
        "rows: list[list[int]] -> list[int]",
        "Read the matrix along a spiral that begins in the $corner corner and first goes along the $along there; every number once. Return the numbers in the order $order.",
        """
        if "$corner" == "upper right":
            rows = [row[::-1] for row in rows]
        if "$along" == "column":
            rows = [list(row) for row in zip(*rows)]
        found = []
        while rows:
            found += rows[0]
            rows = [list(row) for row in zip(*rows[1:])][::-1]
        return found if "$order" == "of the spiral" else found[::-1] if "$order" == "from the inside to the outside" else found[::2]
        """,
        [
            ('"$along" == "column"', '"$along" != "column"'),
            ("while rows:", "for _ in range(3 if rows else 0):"),
            ('"$corner" == "upper right"', '"$corner" != "upper right"'),
            ("[list(row) for row in zip(*rows[1:])][::-1]", "[list(row)[::-1] for row in zip(*rows[1:])]"),
        ],
        lambda r, p: (matrix(r, 4, 0, 30),),
        [
            ([[1]],),
            ([[1, 2, 3]],),
            ([[1], [2], [3]],),
            ([[1, 2], [3, 4]],),
            ([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]],),
            ([[1, 2, 3], [4, 5, 6], [7, 8, 9]],),
        ],
        corner=("upper left", "upper right"),
        along=("row", "column"),
        order=(
            "of the spiral",
            "from the inside to the outside",
            "of the spiral, leaving out every second one",
        ),
    ),
    family(
        "stripe_sum",
        "easy",
        "rows: list[list[int]] -> int",
        "Add the numbers of the matrix at those places (row i, column j, counted from 0) for which i $sign j leaves the remainder $r when divided by $k.",
        """
        return sum(n for i, row in enumerate(rows) for j, n in enumerate(row) if (i $sign j) % $k == $r)
        """,
        [
            ("i $sign j", "j $sign i + 1"),
            ("enumerate(row)", "enumerate(row, 1)"),
            ("% $k == $r", "== $r"),
            ("sum(n for", "sum(1 for"),
        ],
        lambda r, p: (matrix(r, 6),),
        [
            ([[5]],),
            ([[1, 2, 3, 4, 5, 6]],),
            ([[1], [2], [3], [4], [5], [6]],),
            ([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]],),
            ([[3] * 6] * 5,),
        ],
        sign=("+", "-"),
        k=(3, 4, 5),
        r=(0, 1, 2),
    ),
    family(
        "peaks",
        "hard",
        "rows: list[list[int]] -> int",
        "Count the places of the matrix whose number is by at least $d $cmp than each of its neighbours, which are $which. Beyond the edge there is nothing.",
        """
        total = 0
        for i, row in enumerate(rows):
            for j, x in enumerate(row):
                near = [
                    rows[i + a][j + b]
                    for a in (-1, 0, 1)
                    for b in (-1, 0, 1)
                    if abs(a) + abs(b) in {"those above, below, left and right": (1,), "those on all eight sides": (1, 2)}["$which"]
                    and 0 <= i + a < len(rows)
                    and 0 <= j + b < len(row)
                ]
                total += all((x - y if "$cmp" == "larger" else y - x) >= $d for y in near)
        return total
        """,
        [
            ("(1,)", "(2,)"),
            ("0 <= i + a < len(rows)", "0 < i + a < len(rows)"),
            (">= $d", "> $d"),
            ("all((x", "any((x"),
            ("0 <= j + b < len(row)", "0 < j + b < len(row)"),
        ],
        lambda r, p: (matrix(r, 4, 0, 5),),
        lambda p: [
            ([[5]],),
            ([[0, p.d, 0]],),
            ([[p.d, 0, p.d]],),
            ([[1, 1], [1, 1]],),
            ([[9, 0, 9], [0, 5, 0], [9, 0, 9]],),
            ([[0, 9, 0], [9, 4, 9], [0, 9, 0]],),
            ([[3, 9], [9, 3]],),
        ],
        cmp=("larger", "smaller"),
        which=("those above, below, left and right", "those on all eight sides"),
        d=(1, 2, 3),
    ),
    family(
        "matrix_power",
        "hard",
        "rows: list[list[int]], n: int -> list[list[int]]",
        "Return the n-th power (n >= 0) of the square matrix, every number modulo $m.",
        """
        size = len(rows)
        found = [[int(i == j) % $m for j in range(size)] for i in range(size)]
        for _ in range(n):
            found = [[sum(row[k] * rows[k][j] for k in range(size)) % $m for j in range(size)] for row in found]
        return found
        """,
        [
            ("int(i == j)", "1"),
            ("range(n)", "range(n + 1)"),
            ("row[k] * rows[k][j]", "row[k] * rows[j][k]"),
            ("rows[k][j] for k in range(size)) % $m", "rows[k][j] for k in range(size))"),
        ],
        lambda r, p: (
            (m := r.randint(1, 3)) and [[r.randint(0, 9) for _ in range(m)] for _ in range(m)],
            r.randint(0, 6),
        ),
        [
            ([[3]], 0),
            ([[3]], 1),
            ([[1, 1], [1, 0]], 7),
            ([[0, 1], [0, 0]], 2),
            ([[2, 0], [1, 3]], 3),
            ([[1, 2], [3, 4]], 1),
        ],
        m=(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 19),
    ),
)
