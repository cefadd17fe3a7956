"""Families about recursion and dynamic programming."""

from __future__ import annotations

from random import Random
from typing import Any

from .family import family, ints, of_topic, word


def nested(r: Random, depth: int = 3) -> list[Any]:
    """A list of numbers and of such lists."""
    return [
        nested(r, depth - 1) if depth and r.random() < 0.35 else r.randint(-9, 9)
        for _ in range(r.randint(0, 4))
    ]


RECURSION = of_topic(
    "recursion",
    family(
        "nested_sum",
        "medium",
        "data: list -> int",
        "The list holds integers and lists like itself. Return the sum of all integers, each multiplied by $k $weight its depth, where the outermost list has depth 1.",
        """
        def total(part, depth):
            found = 0
            for x in part:
                if isinstance(x, list):
                    found += total(x, depth + 1)
                else:
                    found += x * ($k ** depth if "$weight" == "to the power of" else $k * depth)
            return found

        return total(data, 1)
        """,
        [("depth + 1)", "depth)"), ("total(data, 1)", "total(data, 2)"), ("found += total", "found = total")],
        lambda r, p: (nested(r),),
        [([],), ([1],), ([[], [[]]],), ([1, [2, [3, [4]]], 5],), ([[[7]], 1, [2]],)],
        k=(2, 3, 4, 5, 6),
        weight=("to the power of", "times"),
    ),
    family(
        "flatten_some",
        "medium",
        "data: list -> list",
        "The list holds integers and lists like itself. Take away $d levels of nesting (fewer where there are fewer), and reverse $what.",
        """
        def flat(part, depth):
            found = []
            for x in part:
                if isinstance(x, list) and depth:
                    found += flat(x, depth - 1)
                else:
                    found.append(x)
            return found

        found = flat(data, $d)
        return found[::-1] if "$what" == "the result" else found
        """,
        [
            ("depth - 1)", "depth)"),
            ("flat(data, $d)", "flat(data, $d - 1)"),
            ("found.append(x)", "found.insert(0, x)"),
        ],
        lambda r, p: (nested(r, 5),),
        [([],), ([1, 2],), ([1, [2, [3, [4, [5, [6, [7]]]]]]],), ([[[[[[]]]]], 1],)],
        d=(1, 2, 3, 4, 5),
        what=("the result", "nothing"),
    ),
    family(
        "count_subsets",
        "medium",
        "numbers: list[int], target: int -> int",
        "Count the ways to choose $how $k places of the list so that the numbers there add up to the target. Choosing nothing gives 0.",
        """
        def ways(i, left, chosen):
            if i == len(numbers):
                allowed = {"exactly": chosen == $k, "at most": chosen <= $k, "at least": chosen >= $k}["$how"]
                return int(left == 0 and allowed)
            return ways(i + 1, left, chosen) + ways(i + 1, left - numbers[i], chosen + 1)

        return ways(0, target, 0)
        """,
        [
            ("left == 0 and allowed", "left == 0"),
            ("left - numbers[i], chosen + 1", "left - numbers[i], chosen"),
            ("ways(i + 1, left, chosen)", "ways(i + 1, left, chosen + 1)"),
        ],
        lambda r, p: (ints(r, 7, -3, 4), r.randint(-2, 6)),
        [
            ([], 0),
            ([], 1),
            ([1, 1, 1, 1, 1], 2),
            ([0, 0, 0, 0, 0], 0),
            ([1, 2, 3, 4, 5, 6], 9),
            ([2, -1, 1, 3, 0, 1], 4),
        ],
        k=(2, 3, 4, 5),
        how=("exactly", "at most", "at least"),
    ),
)

DYNAMIC = of_topic(
    "dynamic programming",
    family(
        "recurrence",
        "easy",
        "n: int -> int",
        "A sequence begins with $s, $t (its elements 0 and 1); every later element is $a times the one before plus $b times the one before that. Return element n, n >= 0.",
        """
        x, y = $s, $t
        for _ in range(n):
            x, y = y, $a * y + $b * x
        return x
        """,
        [
            ("range(n)", "range(n + 1)"),
            ("$a * y + $b * x", "$a * x + $b * y + 1"),
            ("x, y = $s, $t", "x, y = $t, $s"),
            ("return x", "return y"),
        ],
        lambda r, p: (r.randint(0, 30),),
        [(0,), (1,), (2,), (3,), (4,)],
        a=(1, 2, 3),
        b=(1, 2),
        s=(0, 2),
        t=(1, 3),
    ),
    family(
        "coin_ways",
        "medium",
        "amount: int -> int",
        "Count the ways to pay the amount (>= 0) with coins of $a, $b and $c, as many of each as needed; the order of the coins does not matter.",
        """
        ways = [1] + [0] * amount
        for coin in ($a, $b, $c):
            for total in range(coin, amount + 1):
                ways[total] += ways[total - coin]
        return ways[amount]
        """,
        [
            (
                "for coin in ($a, $b, $c):\n            for total in range(coin, amount + 1):",
                "for total in range(1, amount + 1):\n            for coin in (c for c in ($a, $b, $c) if c <= total):",
            ),
            ("range(coin, amount + 1)", "range(amount, coin - 1, -1)"),
            ("($a, $b, $c)", "($a, $b)"),
            ("[1] +", "[0] +"),
        ],
        lambda r, p: (r.randint(0, 60),),
        lambda p: [(0,), (1,), (p.a,), (p.a + p.b,), (p.c,), (50,), (p.a * p.b * 2,)],
        a=(2, 3),
        b=(4, 5, 7),
        c=(9, 10, 11),
    ),
    family(
        "fewest_coins",
        "medium",
        "amount: int -> int",
        "Return the smallest number of coins of 1, $b and $c that pays the amount (>= 0), where at most $most coins of 1 may be used; -1 if it cannot be paid.",
        """
        best = -1
        for ones in range(min(amount, $most) + 1):
            for large in range((amount - ones) // $c + 1):
                rest = amount - ones - large * $c
                if rest % $b == 0 and (best < 0 or ones + large + rest // $b < best):
                    best = ones + large + rest // $b
        return best
        """,
        [
            ("range((amount - ones) // $c + 1)", "range((amount - ones) // $c, (amount - ones) // $c + 1)"),
            ("min(amount, $most) + 1", "amount + 1"),
            ("< best):", "> best):"),
            ("range(min(amount, $most) + 1)", "range(min(amount, $most))"),
        ],
        lambda r, p: (r.randint(0, 60),),
        lambda p: [
            (0,),
            (1,),
            (p.b - 1,),
            (2 * p.b,),
            (p.c,),
            (2 * p.c - 1,),
            (p.b + p.c,),
            (4 * p.b,),
            (3 * p.b,),
        ],
        b=(5, 6, 7),
        c=(11, 13),
        most=(1, 2),
    ),
    family(
        "grid_paths",
        "medium",
        "grid: list[str] -> int",
        "Count the paths from the upper left to the lower right cell of the grid that go $moves and never over a cell marked #. Return the number modulo $m.",
        """
        rows, columns = len(grid), len(grid[0])
        ways = [[0] * columns for _ in range(rows)]
        for i in range(rows):
            for j in range(columns):
                if grid[i][j] == "#":
                    continue
                if i == j == 0:
                    ways[i][j] = 1
                    continue
                up = ways[i - 1][j] if i else 0
                left = ways[i][j - 1] if j else 0
                slant = ways[i - 1][j - 1] if i and j and "diagonally" in "$moves" else 0
                ways[i][j] = up + left + slant
        return ways[-1][-1] % $m
        """,
        [
            ('if i and j and "diagonally" in', 'if i and j and "diagonally" not in'),
            ('if grid[i][j] == "#"', 'if grid[i][j] == "#" and i and j'),
            ("% $m", "% ($m + 1)"),
        ],
        lambda r, p: (
            [word(r, n, "....#", n) for _ in range(r.randint(1, 5))] if (n := r.randint(1, 5)) else [],
        ),
        [
            (["."],),
            (["#"],),
            (["..", ".."],),
            (["......"] * 5,),
            ([".#.", "...", "..."],),
            (["#..", "..."],),
            (["." * 9] * 7,),
            (["...", "...", "..#"],),
        ],
        m=(7, 9, 10, 11, 12, 13),
        moves=("right or down", "right, down or diagonally right and down"),
    ),
    family(
        "edit_cost",
        "hard",
        "a: str, b: str -> int",
        "Return the least cost of turning the text a into b, where putting in a letter costs $i, taking one out costs $d and replacing one by another costs $s.",
        """
        row = [j * $i for j in range(len(b) + 1)]
        for x, old in enumerate(a, 1):
            above, row = row, [x * $d]
            for y, new in enumerate(b, 1):
                change = above[y - 1] + (0 if old == new else $s)
                row.append(min(above[y] + $d, row[y - 1] + $i, change))
        return row[-1]
        """,
        [
            ("[j * $i for", "[j * $d for"),
            ("(0 if old == new else $s)", "$s"),
            ("above[y] + $d, row[y - 1] + $i, change", "above[y] + $d, change"),
            ("[x * $d]", "[x]"),
        ],
        lambda r, p: (word(r, 7, "abc", 0), word(r, 7, "abc", 0)),
        [("", ""), ("abc", ""), ("", "ab"), ("abc", "abc"), ("kitten", "sitting"), ("aaaa", "bb")],
        i=(1, 4),
        d=(2, 3),
        s=(2, 3, 4),
    ),
    family(
        "longest_chain",
        "hard",
        "numbers: list[int] -> int",
        "Return the length of the longest sequence of numbers, chosen in their order in the list but not necessarily neighbours, in which every number is at least $g $than the one before.",
        """
        best = []
        for i, n in enumerate(numbers):
            sign = 1 if "$than" == "more" else -1
            best.append(1 + max([best[j] for j in range(i) if sign * (n - numbers[j]) >= $g], default=0))
        return max(best, default=0)
        """,
        [
            (">= $g", "> $g"),
            ("max(best, default=0)", "best[-1] if best else 0"),
            ('"$than" == "more"', '"$than" == "less"'),
            ("1 + max(", "max("),
        ],
        lambda r, p: (ints(r, 10, 0, 12),),
        lambda p: [
            ([],),
            ([5],),
            ([1, 1, 1],),
            ([p.g * n for n in range(5)],),
            ([p.g * n for n in range(5, 0, -1)],),
            ([0, 9, 0],),
        ],
        g=(0, 1, 2, 3, 4),
        than=("more", "less"),
    ),
    family(
        "climb",
        "easy",
        "n: int -> int",
        "Count the ways to climb n >= 0 stairs in steps of $a, $b or $c stairs, where the order of the steps matters.",
        """
        ways = [1]
        for i in range(1, n + 1):
            ways.append(sum(ways[i - step] for step in ($a, $b, $c) if step <= i))
        return ways[n]
        """,
        [("step <= i", "step < i"), ("($a, $b, $c)", "($a, $b)"), ("ways = [1]", "ways = [0]")],
        lambda r, p: (r.randint(0, 22),),
        lambda p: [(0,), (1,), (p.a,), (p.b,), (p.c,), (p.a + p.b + p.c,)],
        a=(1, 2),
        b=(3, 4),
        c=(5, 6, 7),
    ),
    family(
        "knapsack",
        "hard",
        "items: list[tuple[int, int]] -> int",
        "Every item is (weight, value), both positive, and there is $stock of it. Return the largest total value that weighs at most $w.",
        """
        best = [0] * ($w + 1)
        for weight, value in items:
            loads = range(weight, $w + 1)
            for load in loads if "$stock" == "any number" else reversed(loads):
                best[load] = max(best[load], best[load - weight] + value)
        return best[$w]
        """,
        [
            ('"$stock" == "any number"', '"$stock" != "any number"'),
            ("range(weight, $w + 1)", "range(weight, $w)"),
            ("max(best[load], best[load - weight] + value)", "best[load - weight] + value"),
        ],
        lambda r, p: ([(r.randint(1, 7), r.randint(1, 9)) for _ in range(r.randint(0, 6))],),
        lambda p: [([],), ([(p.w, 5)],), ([(p.w + 1, 5)],), ([(1, 1), (2, 3)],), ([(2, 9), (3, 1), (4, 4)],)],
        w=(6, 7, 8, 10, 11, 13),
        stock=("one", "any number"),
    ),
    family(
        "far_apart",
        "hard",
        "numbers: list[int] -> int",
        "Choose places of the list, any two of them at least $k apart, so that the sum of the numbers there is as $what as can be; choosing nothing gives 0. Return the sum.",
        """
        sign = 1 if "$what" == "large" else -1
        best = [0]
        for i, n in enumerate(numbers):
            best.append(max(best[i], sign * n + best[max(0, i - $k + 1)]))
        return sign * best[-1]
        """,
        [
            ("i - $k + 1", "i - $k"),
            ("max(best[i], sign * n + best[max(0, i - $k + 1)])", "sign * n + best[max(0, i - $k + 1)]"),
            ('"$what" == "large"', '"$what" != "large"'),
        ],
        lambda r, p: (ints(r, 10, -9, 12),),
        lambda p: [
            ([],),
            ([4],),
            ([-4],),
            ([5] * 8,),
            ([-5] * 8,),
            ([*[0] * p.k, 3, 0, 0, 4, 9, -9, 2],),
            ([1, *[0] * (p.k - 1), 1],),
            ([-1, *[0] * (p.k - 1), -1],),
        ],
        k=(2, 3, 4, 5, 6),
        what=("large", "small"),
    ),
)
