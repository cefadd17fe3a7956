"""Families about dictionaries and counting."""

from __future__ import annotations

from .family import family, ints, of_topic, word, words

TABLES = of_topic(
    "dicts",
    family(
        "top_words",
        "medium",
        "words: list[str] -> list[str]",
        "Return the $k most frequent words (fewer where there are fewer), the most frequent first; of words that are equally frequent the one that $tie comes first.",
        """
        counts = {}
        for w in words:
            counts[w] = counts.get(w, 0) + 1
        order = {"is first in the alphabet": lambda w: (-counts[w], w), "appears first in the list": lambda w: -counts[w]}
        return sorted(counts, key=order["$tie"])[:$k]
        """,
        [
            ("-counts[w]", "counts[w]"),
            ("[:$k]", "[:$k - 1]"),
            ("sorted(counts,", "sorted(sorted(counts, reverse=True),"),
            ('sorted(counts, key=order["$tie"])', "sorted(sorted(counts), key=lambda w: counts[w] > 1)"),
        ],
        lambda r, p: (words(r, 12, 2, "abc"),),
        [
            ([],),
            (["a"],),
            (["b", "a", "b", "a", "c"],),
            (["c", "c", "b", "b", "a", "a", "d", "e", "f", "g"],),
            (["x", "y", "x", "z", "z", "z", "w", "v", "u"],),
        ],
        k=(2, 3, 4, 5, 6),
        tie=("is first in the alphabet", "appears first in the list"),
    ),
    family(
        "group_words",
        "easy",
        "words: list[str] -> dict[str, int]",
        "Count the words of at least $n letters by their $by letter, in lower case. Words that are too short do not count, and letters without words are left out.",
        """
        counts = {}
        for w in words:
            if len(w) >= $n:
                letter = w[{"first": 0, "second": 1, "last": -1}["$by"]].lower()
                counts[letter] = counts.get(letter, 0) + 1
        return counts
        """,
        [(">= $n", "> $n"), (".lower()", ""), ("counts.get(letter, 0) + 1", "1")],
        lambda r, p: (words(r, 9, 6, "abcAB"),),
        lambda p: [
            ([],),
            (["a"],),
            (["ab" * p.n, "BA" * p.n, "Abc" * p.n],),
            (["abcdef"[: p.n]] * 3,),
            (["abcdefg", "BACDEFG", "bbcdefG"],),
        ],
        n=(2, 3, 4, 5),
        by=("first", "last", "second"),
    ),
    family(
        "warehouse",
        "medium",
        "orders: list[str] -> dict[str, int]",
        """Every order is a name, a blank and a whole number: +n puts n pieces into the store, -n takes n out. An order that would leave a name with fewer than 0 or more than
        $most pieces is $refused. Return how many there are of each name at the end, without names of which there are none.""",
        """
        store = {}
        for order in orders:
            name, _, number = order.partition(" ")
            left = store.get(name, 0) + int(number)
            if "$refused" == "filled as far as possible":
                left = max(0, min($most, left))
            if 0 <= left <= $most:
                store[name] = left
        return {name: left for name, left in store.items() if left}
        """,
        [
            ("0 <= left <= $most", "0 <= left < $most"),
            ("store.get(name, 0) + int(number)", "int(number)"),
            (" if left}", "}"),
            ("0 <= left <=", "left <="),
        ],
        lambda r, p: (
            [f"{word(r, 1, 'ab')} {r.choice('+-')}{r.randint(1, p.most)}" for _ in range(r.randint(0, 8))],
        ),
        lambda p: [
            ([],),
            ([f"a +{p.most}", "a -1", f"b +{p.most + 1}"],),
            (["a +2", "a -2", "b +3", "b -4"],),
            (["a -1"],),
            ([f"a +{p.most}"],),
            (["a +3", "a -4"],),
            (["c +1", "c +2"],),
        ],
        most=(5, 6, 8, 9, 10, 12),
        refused=("ignored", "filled as far as possible"),
    ),
    family(
        "merge_counts",
        "easy",
        "first: dict[str, int], second: dict[str, int] -> dict[str, int]",
        "Combine the two: every name that is in either gets the $how of its two numbers, a missing number being 0. Leave out what is below $least.",
        """
        found = {}
        for name in [*first, *second]:
            a, b = first.get(name, 0), second.get(name, 0)
            value = {"sum": a + b, "larger": max(a, b), "smaller": min(a, b), "difference (first minus second)": a - b}["$how"]
            if value >= $least:
                found[name] = value
        return found
        """,
        [
            (">= $least", "> $least"),
            ("[*first, *second]", "[*first]"),
            ("first.get(name, 0), second.get(name, 0)", "second.get(name, 0), first.get(name, 0) - 1"),
            ("if value >= $least:", "if True:"),
        ],
        lambda r, p: (
            {c: r.randint(-2, 6) for c in words(r, 4, 1, "abcd")},
            {c: r.randint(-2, 6) for c in words(r, 4, 1, "abcd")},
        ),
        lambda p: [
            ({}, {}),
            ({"a": p.least}, {"b": p.least}),
            ({"a": 3}, {"a": 5, "b": 2}),
            ({}, {"b": -p.least}),
            ({"a": p.least + 2, "b": 1}, {"a": 2, "b": 1}),
            ({"a": p.least, "b": 0}, {"a": p.least, "b": 0}),
            ({}, {"z": -5, "y": 7}),
        ],
        least=(-1, 1, 2),
        how=("sum", "larger", "smaller", "difference (first minus second)"),
    ),
    family(
        "majority",
        "easy",
        "votes: list[str] -> str",
        "Return the name with the most votes if it has $cmp $percent percent of all votes and no other name has as many; else an empty text.",
        """
        counts = {}
        for name in votes:
            counts[name] = counts.get(name, 0) + 1
        best = max(counts.values(), default=0)
        leaders = [name for name, n in counts.items() if n == best]
        enough = best * 100 >= $percent * len(votes) if "$cmp" == "at least" else best * 100 > $percent * len(votes)
        return leaders[0] if len(leaders) == 1 and enough else ""
        """,
        [
            ("len(leaders) == 1 and enough", "leaders and enough"),
            ("len(leaders) == 1 and enough", "len(leaders) == 1"),
            ("counts.get(name, 0) + 1", "counts.get(name, 1) + 1"),
            ('"$cmp" == "at least"', '"$cmp" != "at least"'),
        ],
        lambda r, p: (words(r, 10, 1, "abcde"),),
        lambda p: [
            ([],),
            (["a"],),
            (["a", "b"],),
            (["a"] * p.percent + ["b", "c", "d", "e", "f"] * ((100 - p.percent) // 5),),
            (["a"] * 3 + ["b", "c", "d", "e", "f", "g", "h"],),
            (["a", "a", "b", "b", "c"],),
            (list("abcdefgh"),),
            (["a"] * 5 + ["b"] * 5,),
            (["a", "a", *"bcdefghi"],),
        ],
        percent=(25, 30, 35, 40, 45, 50),
        cmp=("at least", "more than"),
    ),
    family(
        "histogram",
        "easy",
        "numbers: list[int] -> list[int]",
        "Count the numbers that fall into each of $n bins of width $w, the first of which begins at $low (a bin includes its lower border, not its upper). Numbers outside all bins $outside.",
        """
        counts = [0] * $n
        for x in numbers:
            place = (x - $low) // $w
            if "$outside" == "count for the nearest bin":
                place = max(0, min($n - 1, place))
            if 0 <= place < $n:
                counts[place] += 1
        return counts
        """,
        [
            ("(x - $low) // $w", "(x - $low - 1) // $w"),
            ('"$outside" == "count for the nearest bin"', '"$outside" != "count for the nearest bin"'),
            ("x - $low", "x"),
        ],
        lambda r, p: (ints(r, 12, p.low - 3, p.low + p.w * p.n + 3),),
        lambda p: [
            ([],),
            ([p.low],),
            ([p.low - 1, p.low + p.w * p.n],),
            (list(range(p.low, p.low + p.w * p.n, p.w)),),
        ],
        w=(2, 3, 5),
        n=(3, 4),
        low=(1, -4),
        outside=("do not count", "count for the nearest bin"),
    ),
)
