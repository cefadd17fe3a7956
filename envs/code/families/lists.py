"""Families about lists."""

from __future__ import annotations

from .family import family, ints, of_topic

LISTS = of_topic(
    "lists",
    family(
        "chunk_sums",
        "easy",
        "numbers: list[int] -> list[int]",
        "Cut the list into pieces of $k numbers and return the sum of each piece; a last piece that is shorter is $last.",
        """
        found = []
        for i in range(0, len(numbers), $k):
            piece = numbers[i : i + $k]
            if len(piece) == $k or "$last" == "kept":
                found.append(sum(piece))
        return found
        """,
        [
            ('"$last" == "kept"', '"$last" == "left out"'),
            ("range(0, len(numbers), $k)", "range(1, len(numbers), $k)"),
            ("sum(piece)", "max(piece)"),
        ],
        lambda r, p: (ints(r, 14),),
        lambda p: [
            ([],),
            ([3],),
            (list(range(1, p.k + 1)),),
            (list(range(1, 2 * p.k + 2)),),
            (list(range(p.k - 1)),),
        ],
        k=(2, 3, 4, 5, 6, 7),
        last=("kept", "left out"),
    ),
    family(
        "drop_every",
        "easy",
        "numbers: list[int] -> list[int]",
        "Leave out the numbers at the places $first, $first + $k, $first + 2 * $k and so on, counted from 1, and return the others in their order.",
        """
        return [n for i, n in enumerate(numbers, 1) if i < $first or (i - $first) % $k != 0]
        """,
        [
            ("enumerate(numbers, 1)", "enumerate(numbers)"),
            ("i < $first or", "i >= $first and"),
            ("!= 0", "!= 1"),
        ],
        lambda r, p: (ints(r, 14),),
        lambda p: [([],), ([1],), (list(range(1, 13)),), (list(range(1, p.first + p.k + 1)),)],
        k=(2, 3, 4, 5),
        first=(2, 3, 4),
    ),
    family(
        "window_extreme",
        "medium",
        "numbers: list[int] -> list[int]",
        "Return the $what of every $k neighbouring numbers, from left to right; an empty list where there are fewer than $k numbers.",
        """
        best = {"largest": max, "smallest": min, "middle (of the sorted window)": lambda w: sorted(w)[$k // 2]}["$what"]
        return [best(numbers[i : i + $k]) for i in range(len(numbers) - $k + 1)]
        """,
        [
            ("- $k + 1", "- $k"),
            ("numbers[i : i + $k]", "numbers[i : i + $k - 1]"),
            ("range(len(numbers) - $k + 1)", "range(len(numbers))"),
        ],
        lambda r, p: (ints(r, 12, -9, 9),),
        lambda p: [
            ([],),
            ([5],),
            (list(range(p.k)),),
            ([9, -1, 8, -2, 7, -3, 6, 12],),
            (list(range(9, -9, -3)),),
        ],
        k=(3, 4, 5, 6),
        what=("largest", "smallest", "middle (of the sorted window)"),
    ),
    family(
        "kth_distinct",
        "easy",
        "numbers: list[int] -> int | None",
        "Return the $k-th $what of the different values in the list (the first is the $what itself), or None if there are not so many.",
        """
        values = sorted(set(numbers), reverse="$what" == "largest")
        return values[$k - 1] if len(values) >= $k else None
        """,
        [("sorted(set(numbers)", "sorted(numbers"), ("values[$k - 1]", "values[-$k]"), (">= $k", "> $k")],
        lambda r, p: (ints(r, 10, -5, 5),),
        lambda p: [
            ([],),
            ([4],),
            (list(range(p.k)),),
            ([1, 1, 2, 2, 3, 3, 4, 5, 6, 7],),
            ([7] * 8,),
            (list(range(9)) * 2,),
        ],
        k=(2, 3, 4, 5, 6),
        what=("largest", "smallest"),
    ),
    family(
        "three_ways",
        "easy",
        "numbers: list[int] -> list[int]",
        "Return the numbers $first $p, then those that equal $p, then the others, each group in its order in the list.",
        """
        below = [n for n in numbers if n < $p]
        above = [n for n in numbers if n > $p]
        if "$first" == "above":
            below, above = above, below
        return below + [n for n in numbers if n == $p] + above
        """,
        [
            ("n < $p", "n <= $p"),
            ('"$first" == "above"', '"$first" == "below"'),
            ("+ above", "+ sorted(above)"),
            ("return below +", "return below[::-1] +"),
        ],
        lambda r, p: (ints(r, 10, p.p - 4, p.p + 4),),
        lambda p: [
            ([],),
            ([p.p],),
            ([p.p + 3, p.p + 1, p.p, p.p - 1, p.p - 3],),
            ([p.p - 1, p.p - 2, p.p + 2, p.p + 1],),
        ],
        p=(-5, -3, -1, 0, 1, 2, 4, 7),
        first=("below", "above"),
    ),
    family(
        "count_pairs",
        "medium",
        "numbers: list[int] -> int",
        "Count the pairs of places i < j, at most $far apart, whose numbers $relation $s.",
        """
        total = 0
        for i in range(len(numbers)):
            for j in range(i + 1, min(len(numbers), i + $far + 1)):
                if {"add up to": numbers[i] + numbers[j] == $s, "differ by": abs(numbers[i] - numbers[j]) == $s}["$relation"]:
                    total += 1
        return total
        """,
        [
            ("range(i + 1,", "range(i + 2,"),
            ("i + $far + 1", "i + $far"),
            ("total += 1", "return 1"),
            ("min(len(numbers), i + $far + 1)", "len(numbers)"),
        ],
        lambda r, p: (ints(r, 12, -1, 4),),
        lambda p: [
            ([],),
            ([p.s],),
            ([0, p.s, 0, p.s, 0, p.s, 0, p.s],),
            ([p.s // 2] * 3,),
            ([0, 9, 9, 9, 9, 9, 9, p.s],),
            ([0, *[9] * (p.far - 1), p.s],),
        ],
        s=(2, 4, 6),
        far=(2, 3, 4),
        relation=("add up to", "differ by"),
    ),
    family(
        "longest_steps",
        "medium",
        "numbers: list[int] -> int",
        "Return the length of the longest stretch of neighbours in which every number is $d more than the one before; 0 for an empty list.",
        """
        best = run = 0
        for i, n in enumerate(numbers):
            run = run + 1 if i and n - numbers[i - 1] == $d else 1
            best = max(best, run)
        return best
        """,
        [
            ("else 1", "else 0"),
            ("best = max(best, run)", "best = run"),
            ("== $d", "== -$d"),
            ("run + 1 if", "run + 2 if"),
        ],
        lambda r, p: ([a + p.d * i for a in ints(r, 4, -9, 9) for i in range(r.randint(1, 4))],),
        lambda p: [([],), ([5],), ([0, p.d, 2 * p.d, 0],), ([3 * p.d, 2 * p.d, p.d, 0],), ([1, 1, 1],)],
        d=(-7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7),
    ),
    family(
        "deal_together",
        "easy",
        "first: list[int], second: list[int] -> list[int]",
        "Take $k numbers from the $start list, then $m from the other, then $k from the $start list again, and so on until both are empty; a list that has run out gives nothing.",
        """
        a, b = (list(first), list(second)) if "$start" == "first" else (list(second), list(first))
        found = []
        while a or b:
            found += a[:$k]
            a = a[$k:]
            found += b[:$m]
            b = b[$m:]
        return found
        """,
        [
            ("while a or b", "while a and b"),
            ('"$start" == "first"', '"$start" == "second"'),
            ("b = b[$m:]", "b = b[$m + 1:]"),
        ],
        lambda r, p: (ints(r, 8), ints(r, 8)),
        [([], []), ([1], []), ([], [2, 3]), ([1, 2, 3, 4, 5], [6, 7, 8, 9]), ([1], [2, 3, 4, 5, 6, 7, 8])],
        k=(1, 2, 3),
        m=(1, 2),
        start=("first", "second"),
    ),
    family(
        "dedupe_by",
        "medium",
        "numbers: list[int] -> list[int]",
        "Of all numbers (not negative) with the same remainder when divided by $m keep the $which one of the list; return the kept ones in their order.",
        """
        seen, found = set(), []
        for n in numbers if "$which" == "first" else reversed(numbers):
            if n % $m not in seen:
                seen.add(n % $m)
                found.append(n)
        return found if "$which" == "first" else found[::-1]
        """,
        [
            ("n % $m not in seen", "n not in found"),
            ('"$which" == "first" else reversed', '"$which" == "last" else reversed'),
            ("n % $m", "n % ($m + 1)"),
            ("else found[::-1]", "else found"),
        ],
        lambda r, p: (ints(r, 10, 0, 3 * p.m),),
        lambda p: [
            ([],),
            ([0],),
            ([1, p.m + 1, 2, p.m + 2, 0],),
            ([p.m, 2, 0, p.m + 2, 1],),
            ([3, 2, 1, 0, 3, 1],),
        ],
        m=(3, 4, 5, 6, 7, 8, 9),
        which=("first", "last"),
    ),
    family(
        "balance_place",
        "medium",
        "numbers: list[int] -> int",
        "Return the $which index i for which the sum of the numbers before i is $d more than the sum of the numbers behind i (the number at i counts on neither side), or -1.",
        """
        found = [i for i in range(len(numbers)) if sum(numbers[:i]) - sum(numbers[i + 1 :]) == $d]
        if not found:
            return -1
        return found[0] if "$which" == "smallest" else found[-1]
        """,
        [
            ("numbers[i + 1 :]", "numbers[i:]"),
            ('"$which" == "smallest"', '"$which" == "largest"'),
            ("return -1", "return 0"),
            ("== $d", "== -$d - 1"),
        ],
        lambda r, p: (ints(r, 7, -2, 2),),
        lambda p: [
            ([],),
            ([5],),
            ([p.d, 1],),
            ([p.d, 0, 0, 0],),
            ([1 + p.d, 4, 0, 0, 1],),
            ([0, 0, 0, 0],),
            ([1, 2, 3],),
            ([9],),
        ],
        d=(0, 1, 2, 3, 4, 5),
        which=("smallest", "largest"),
    ),
)
