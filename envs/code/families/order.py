"""Families about sorting and intervals."""

from __future__ import annotations

from .family import family, ints, of_topic, spans, words

SORTING = of_topic(
    "sorting",
    family(
        "sort_words",
        "easy",
        "words: list[str] -> list[str]",
        "Sort the words of at least $least letters by their $key, $direction; words that are equal in this stand in alphabetical order.",
        """
        key = {"length": len, "last letter": lambda w: w[-1], "number of different letters": lambda w: len(set(w))}["$key"]
        found = sorted(w for w in words if len(w) >= $least)
        return sorted(found, key=key, reverse="$direction" == "largest first")
        """,
        [
            ("found = sorted(w for", "found = list(w for"),
            ('"$direction" == "largest first"', '"$direction" != "largest first"'),
            ("return sorted(found, key=key", "return sorted(set(found), key=lambda w: (key(w), w)"),
            (
                "sorted(w for w in words if len(w) >= $least)",
                "sorted((w for w in words if len(w) >= $least), reverse=True)",
            ),
        ],
        lambda r, p: (words(r, 8, 5, "abc"),),
        [
            ([],),
            (["b", "a"],),
            (["bb", "a", "ccc", "aa", "b"],),
            (["ab", "ab", "aab", "bba"],),
            (["cab", "b", "aaaa", "ba", "ca"],),
        ],
        key=("length", "last letter", "number of different letters"),
        direction=("smallest first", "largest first"),
        least=(1, 2),
    ),
    family(
        "sort_classes",
        "medium",
        "numbers: list[int] -> list[int]",
        "Sort the numbers by their remainder when divided by $m (0 to $m - 1), the $first remainder first; numbers of the same remainder stand in $order order.",
        """
        sign = 1 if "$first" == "smallest" else -1
        other = 1 if "$order" == "rising" else -1
        return sorted(numbers, key=lambda n: (sign * (n % $m), other * n))
        """,
        [
            ('"$first" == "smallest"', '"$first" != "smallest"'),
            ('"$order" == "rising"', '"$order" != "rising"'),
            ("n % $m", "abs(n) % $m"),
        ],
        lambda r, p: (ints(r, 10, -12, 12),),
        [([],), ([1],), ([1, 2, 3, 4, 5, 6, 7, 8],), ([-1, -2, 2, 1],), ([6, 12, 0, -6],)],
        m=(3, 4, 5),
        first=("smallest", "largest"),
        order=("rising", "falling"),
    ),
    family(
        "inversions",
        "medium",
        "numbers: list[int] -> int",
        "Count the pairs of places i < j for which numbers[i] is at least $g $than numbers[j].",
        """
        sign = 1 if "$than" == "more than" else -1
        return sum(sign * (a - b) >= $g for i, a in enumerate(numbers) for b in numbers[i + 1 :])
        """,
        [
            (">= $g", "> $g"),
            ("numbers[i + 1 :]", "numbers"),
            ('"$than" == "more than"', '"$than" != "more than"'),
            ("numbers[i + 1 :]", "numbers[i + 1 : i + 2]"),
        ],
        lambda r, p: (ints(r, 8, 0, 9),),
        lambda p: [([],), ([1],), ([p.g, 0],), ([0, p.g],), ([9, 5, 3, 1],), ([1, 3, 5, 9],), ([2, 2, 2],)],
        g=(1, 2, 3, 4, 5),
        than=("more than", "less than"),
    ),
    family(
        "ranks",
        "medium",
        "scores: list[int] -> list[int]",
        "Return the rank of every score, the $best score having rank $start. Equal scores have equal ranks, and $gaps.",
        """
        sign = -1 if "$best" == "highest" else 1
        keys = [sign * s for s in scores]
        pool = set(keys) if "$gaps" == "no rank is left out behind them" else keys
        return [$start + sum(other < key for other in pool) for key in keys]
        """,
        [
            ('"$best" == "highest"', '"$best" != "highest"'),
            ('"$gaps" == "no rank is left out behind them"', '"$gaps" != "no rank is left out behind them"'),
            ("other < key", "other <= key"),
        ],
        lambda r, p: (ints(r, 8, 0, 6),),
        [([],), ([5],), ([3, 3, 1],), ([1, 2, 2, 2, 5],), ([9, 8, 7, 7, 1, 1, 0],)],
        best=("highest", "lowest"),
        start=(0, 1, 10),
        gaps=(
            "no rank is left out behind them",
            "as many ranks are left out behind them as there were equals",
        ),
    ),
)

INTERVALS = of_topic(
    "intervals",
    family(
        "join_spans",
        "medium",
        "spans: list[tuple[int, int]] -> list[tuple[int, int]]",
        "A span (a, b) reaches from a to b, a < b. Join spans that overlap or between which at most $g lie, and return the joined ones that are at least $least long, in rising order.",
        """
        found = []
        for a, b in sorted(spans):
            if found and a - found[-1][1] <= $g:
                found[-1] = (found[-1][0], max(found[-1][1], b))
            else:
                found.append((a, b))
        return [(a, b) for a, b in found if b - a >= $least]
        """,
        [
            ("max(found[-1][1], b)", "b"),
            ("<= $g", "< $g"),
            ("sorted(spans)", "spans"),
            (">= $least", "> $least"),
        ],
        lambda r, p: (spans(r, 7, 40, 7),),
        lambda p: [
            ([],),
            ([(1, 2)],),
            ([(0, 20), (5, 6)],),
            ([(0, 3), (3 + p.g, 8)],),
            ([(0, 3), (4 + p.g, 9)],),
            ([(30, 35), (0, 5)],),
            ([(0, p.least)],),
            ([(0, 9), (1, 2), (4, 5)],),
        ],
        g=(0, 1, 2, 3),
        least=(2, 3, 4),
    ),
    family(
        "free_slots",
        "medium",
        "busy: list[tuple[int, int]] -> list[tuple[int, int]]",
        "A day lasts from 0 to $end. Busy times (a, b) reach from a to b and may overlap or end after the day. Return the free times of the day that are at least $least long, in rising order.",
        """
        found, at = [], 0
        for a, b in sorted(busy):
            if min(a, $end) - at >= $least:
                found.append((at, min(a, $end)))
            at = max(at, b)
        if $end - at >= $least:
            found.append((at, $end))
        return found
        """,
        [
            ("at = max(at, b)", "at = b"),
            ("if $end - at >= $least:", "if $end - at > $least:"),
            ("sorted(busy)", "busy"),
            ("found, at = [], 0", "found, at = [], 1"),
        ],
        lambda r, p: (spans(r, 6, p.end + 4, 7),),
        lambda p: [
            ([],),
            ([(0, p.end)],),
            ([(0, p.end - p.least)],),
            ([(p.least, p.end)],),
            ([(2, 9), (3, 4)],),
            ([(12, 14), (3, 5)],),
            ([(p.end + 1, p.end + 3)],),
            ([(0, p.end - 1)],),
            ([(0, 10), (1, 2)],),
        ],
        end=(16, 18, 20, 24),
        least=(2, 3, 4),
    ),
    family(
        "busiest",
        "medium",
        "visits: list[tuple[int, int]] -> int",
        "A visit (a, b) lasts from a to b; $ends. Visits shorter than $least do not count. Return the largest number of visits that take place at one time.",
        """
        counted = [(a, b) for a, b in visits if b - a >= $least]
        closed = "$ends".startswith("a visit that ends and one")
        best = 0
        for at, _ in counted:
            best = max(best, sum(a <= at < b or closed and at == b for a, b in counted))
        return best
        """,
        [
            (">= $least", "> $least"),
            ("or closed and at == b", "or not closed and at == b"),
            ("a <= at < b", "a < at < b"),
        ],
        lambda r, p: (spans(r, 8, 12, 5),),
        lambda p: [
            ([],),
            ([(1, 9)],),
            ([(0, 9), (9, 18)],),
            ([(0, p.least), (p.least, 2 * p.least + 1)],),
            ([(0, 9), (2, 11), (4, 13), (5, 7)],),
            ([(3, 3 + p.least)],),
        ],
        least=(1, 2, 3, 4, 5),
        ends=(
            "a visit that ends and one that begins at the same time meet",
            "a visit that ends when another begins does not meet it",
        ),
    ),
    family(
        "covered",
        "medium",
        "spans: list[tuple[int, int]] -> int",
        "A span (a, b) covers everything from a to b. Return how much of the stretch from $low to $high is covered by $what.",
        """
        total = 0
        for x in range($low, $high):
            n = sum(a <= x < b for a, b in spans)
            total += {"at least one span": n >= 1, "no span": n == 0, "two spans or more": n >= 2}["$what"]
        return total
        """,
        [
            ("range($low, $high)", "range($low, $high + 1)"),
            ("a <= x < b", "a <= x <= b"),
            ("a <= x < b", "a < x < b"),
            ("range($low, $high)", "range($low + 1, $high)"),
        ],
        lambda r, p: (spans(r, 6, 30, 9),),
        lambda p: [
            ([],),
            ([(p.low, p.high)],),
            ([(p.low - 2, p.low + 3), (p.low, p.low + 1)],),
            ([(p.high - 1, p.high + 5), (p.high - 1, p.high + 1)],),
            ([(p.high, p.high + 2)] * 2,),
            ([(p.low, p.low + 1)] * 2,),
        ],
        low=(3, 5),
        high=(15, 20, 25),
        what=("at least one span", "no span", "two spans or more"),
    ),
)
