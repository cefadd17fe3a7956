"""Families about reading structured text."""

from __future__ import annotations

from .family import family, of_topic, word

PARSING = of_topic(
    "parsing",
    family(
        "calculate",
        "hard",
        "text: str -> int",
        "The text is a sum of whole numbers with + - and * between them, without brackets or blanks. Return its value, where $rule.",
        """
        numbers, signs, at = [], [], 0
        for i, c in enumerate(text + "+"):
            if c in "+-*" and i > at:
                numbers.append(int(text[at:i]))
                signs.append(c)
                at = i + 1
        order = {"* is calculated before + and -": ["*", "+-"], "+ and - are calculated before *": ["+-", "*"],
                 "everything is calculated from left to right": ["+-*"]}["$rule"]
        signs.pop()
        for some in order:
            i = 0
            while i < len(signs):
                if signs[i] in some:
                    a, b = numbers[i], numbers.pop(i + 1)
                    sign = signs.pop(i)
                    numbers[i] = a + b if sign == "+" else a - b if sign == "-" else a * b
                else:
                    i += 1
        return numbers[0] % $m
        """,
        [
            ("for some in order:", "for some in order[::-1] if len(order) > 1 else ['*', '+-']:"),
            ('a - b if sign == "-"', 'b - a if sign == "-"'),
            ("% $m", "% ($m - 1)"),
        ],
        lambda r, p: (
            "".join(f"{r.randint(0, 12)}{r.choice('+-*')}" for _ in range(r.randint(0, 5)))
            + str(r.randint(0, 12)),
        ),
        [("7",), ("2+3*4",), ("10-4-3",), ("2*3+4*5-6",), ("1-2",), ("3*4+2",), ("2-3*4+5",), ("9*9*9",)],
        rule=(
            "* is calculated before + and -",
            "+ and - are calculated before *",
            "everything is calculated from left to right",
        ),
        m=(100, 97, 60, 128),
    ),
    family(
        "bracket_error",
        "medium",
        "text: str -> int",
        "The text holds brackets of the kinds $kinds, and other characters that do not count. Return the index of the first closing bracket that does not fit; if all fit but some are never closed, $open; else -1.",
        """
        closing = {"$kinds"[i + 1]: "$kinds"[i] for i in range(0, len("$kinds"), 2)}
        waiting = []
        for i, c in enumerate(text):
            if c in closing:
                if not waiting or text[waiting[-1]] != closing[c]:
                    return i
                waiting.pop()
            elif c in closing.values():
                waiting.append(i)
        if not waiting:
            return -1
        return len(text) if "$open" == "the length of the text" else waiting[-1]
        """,
        [
            ("if not waiting or text[waiting[-1]] != closing[c]:", "if not waiting:"),
            ("return -1\n", "return 0\n"),
            ("if not waiting or text[waiting[-1]]", "if waiting and text[waiting[-1]]"),
            ("elif c in closing.values():", "else:"),
        ],
        lambda r, p: (word(r, 8, p.kinds + "a", 0),),
        lambda p: [
            ("",),
            ("a",),
            (p.kinds,),
            (p.kinds[0],),
            (p.kinds[1],),
            (p.kinds[0] + p.kinds[2] + p.kinds[1] + p.kinds[3],),
            (p.kinds[0] * 2 + "b" + p.kinds[1],),
            (p.kinds[2] + "x" + p.kinds[3] * 2,),
        ],
        kinds=("()[]", "[]{}", "(){}", "<>()", "<>[]", "{}<>"),
        open=("the length of the text", "the index of the last of those"),
    ),
    family(
        "duration",
        "medium",
        "text: str -> int",
        "The text is a duration such as 2d3h15m: whole numbers, each followed by d (days of $day hours), h (hours of $hour minutes) or m (minutes), each letter as often as it likes. Return the minutes; an empty text is 0.",
        """
        total, number = 0, ""
        for c in text:
            if c.isdigit():
                number += c
            else:
                total += int(number) * {"d": $day * $hour, "h": $hour, "m": 1}[c]
                number = ""
        return total
        """,
        [
            ('"d": $day * $hour', '"d": $day'),
            ("total +=", "total ="),
            ("number += c", "number = c"),
            ('"h": $hour', '"h": 60 if $hour != 60 else 30'),
        ],
        lambda r, p: ("".join(f"{r.randint(0, 40)}{r.choice('dhm')}" for _ in range(r.randint(0, 4))),),
        [("",), ("5m",), ("1h30m",), ("2d3h15m",), ("10d",), ("1m2h",), ("12h12h",)],
        day=(6, 8, 10, 24),
        hour=(50, 60, 100),
    ),
    family(
        "read_pairs",
        "medium",
        "text: str -> dict[str, int]",
        """The text holds pairs separated by "$pair"; a pair is a name, "$sign" and a whole number. What is no such pair is skipped. Where a name comes several times the $wins number counts.""",
        """
        found = {}
        for part in text.split("$pair"):
            name, found_sign, number = part.partition("$sign")
            if found_sign and name and number.isdigit():
                n = int(number)
                if name not in found or {"first": False, "last": True, "largest": n > found[name]}["$wins"]:
                    found[name] = n
        return found
        """,
        [
            ("found_sign and name and number.isdigit()", "found_sign and number.isdigit()"),
            (
                'if name not in found or {"first": False, "last": True, "largest": n > found[name]}["$wins"]:',
                'if name not in found or {"first": True, "last": False, "largest": n < found[name]}["$wins"]:',
            ),
            ('text.split("$pair")', 'text.split("$pair")[:-1]'),
            ('part.partition("$sign")', 'part.rpartition("$sign")[::-1]'),
        ],
        lambda r, p: (
            p.pair.join(
                f"{word(r, 1, 'abc', 0)}{r.choice([p.sign] * 5 + [''])}{r.choice(['', 'x', *'0123456789'])}"
                for _ in range(r.randint(0, 6))
            ),
        ),
        lambda p: [
            ("",),
            (f"a{p.sign}1",),
            (f"a{p.sign}1{p.pair}a{p.sign}2",),
            (f"a{p.sign}5{p.pair}b{p.sign}7{p.pair}a{p.sign}3",),
            (f"{p.sign}4{p.pair}b{p.pair}c{p.sign}x",),
        ],
        pair=("&", ";", ",", "|"),
        sign=("=", ":"),
        wins=("first", "last", "largest"),
    ),
    family(
        "newer_version",
        "medium",
        "a: str, b: str -> int",
        """Versions are whole numbers separated by "$sep". Return $order if a is the later version, $other if b is, and 0 if they are the same; missing numbers at the end count as $missing.""",
        """
        x, y = ([int(n) for n in v.split("$sep")] for v in (a, b))
        while len(x) < len(y):
            x.append($missing)
        while len(y) < len(x):
            y.append($missing)
        return 0 if x == y else $order if x > y else $other
        """,
        [
            ('[int(n) for n in v.split("$sep")]', 'list(v.split("$sep"))'),
            ("while len(y) < len(x)", "while False"),
            ("$order if x > y else $other", "$other if x > y else $order"),
            ("$missing", "9"),
        ],
        lambda r, p: tuple(
            p.sep.join(str(r.choice([0, 1, 2, 9, 10])) for _ in range(r.randint(1, 3))) for _ in range(2)
        ),
        lambda p: [
            ("1", "1"),
            (f"1{p.sep}0", "1"),
            ("1", f"1{p.sep}0{p.sep}0"),
            ("10", "9"),
            (f"1{p.sep}2", f"1{p.sep}10"),
            (f"2{p.sep}1", f"2{p.sep}1{p.sep}1"),
            (f"1{p.sep}0{p.sep}1", "1"),
            (f"3{p.sep}1", "3"),
            ("3", f"3{p.sep}1"),
        ],
        sep=(".", "-", "_", ":", "/"),
        order=(1, 2),
        other=(-1, 3),
        missing=(0,),
    ),
    family(
        "column_total",
        "medium",
        "lines: list[str] -> int",
        """The first line names columns, the others hold a row each; fields are separated by "$sep" and may have blanks around them. Return the $what of the numbers in the column named "$column"; an empty
        or missing field is skipped, and without any number the result is 0.""",
        """
        if not lines:
            return 0
        names = [name.strip() for name in lines[0].split("$sep")]
        if "$column" not in names:
            return 0
        at = names.index("$column")
        numbers = []
        for line in lines[1:]:
            fields = [field.strip() for field in line.split("$sep")]
            if at < len(fields) and fields[at]:
                numbers.append(int(fields[at]))
        return {"sum": sum(numbers), "largest": max(numbers, default=0), "number": len(numbers)}["$what"]
        """,
        [
            ("lines[1:]", "lines[2:]"),
            (
                "if at < len(fields) and fields[at]:",
                "if at < len(fields) and fields[at] and len(fields) == len(names):",
            ),
            ('names.index("$column")', "0"),
            ("name.strip() for", "name for"),
        ],
        lambda r, p: (
            [p.sep.join(r.choice(["", " "]) + n for n in r.sample(["size", "cost", "age"], 3))]
            + [
                p.sep.join(r.choice(["", " 4", "7", "12 ", "-3"]) for _ in range(r.randint(1, 3)))
                for _ in range(r.randint(0, 5))
            ],
        ),
        lambda p: [
            ([],),
            (["age"],),
            ([f"age{p.sep} {p.column} {p.sep}x", f"1{p.sep} 5{p.sep}2", f"2{p.sep}", f"3{p.sep}9"],),
            (["x", "1"],),
            ([f"{p.column}{p.sep}x", f"-4{p.sep}1", "-6"],),
            ([f"x{p.sep}{p.column}", f"1{p.sep}8", f"2{p.sep}3"],),
        ],
        sep=(",", ";", "|"),
        column=("size", "cost"),
        what=("sum", "largest", "number"),
    ),
    family(
        "fill_template",
        "hard",
        "text: str, values: dict[str, int] -> str",
        """Replace every name between "$left" and "$right" in the text by its value. A name without a value becomes $missing; a "$left" that is never closed stays as it is.""",
        """
        found, i = [], 0
        while i < len(text):
            end = text.find("$right", i + 1) if text[i] == "$left" else -1
            if end < 0:
                found.append(text[i])
                i += 1
                continue
            name = text[i + 1 : end]
            missing = {"an empty text": "", "a question mark": "?", "itself, with what stands around it": text[i : end + 1]}["$missing"]
            found.append(str(values[name]) if name in values else missing)
            i = end + 1
        return "".join(found)
        """,
        [
            ("i = end + 1\n", "i = end\n"),
            ("else missing)", 'else "0")'),
            ("text[i + 1 : end]", "text[i : end]"),
            ("if end < 0:", "if end < i + 2:"),
        ],
        lambda r, p: (
            "".join(
                r.choice([f"{p.left}{word(r, 1, 'abc')}{p.right}", "x", " ", p.left, p.right])
                for _ in range(r.randint(0, 6))
            ),
            {"a": r.randint(0, 99), "b": r.randint(-9, 9)},
        ),
        lambda p: [
            ("", {}),
            (f"{p.left}a{p.right}", {"a": 5}),
            (f"x{p.left}a{p.right}y{p.left}c{p.right}", {"a": 5}),
            (f"{p.left}a", {"a": 1}),
            (f"{p.left}{p.right}z", {"a": 1}),
            (f"{p.left}{p.right}", {"": 7}),
            (f"{p.left}q{p.right}", {}),
        ],
        left=("{", "<", "[", "("),
        right=("}", ">", "]"),
        missing=("an empty text", "a question mark", "itself, with what stands around it"),
    ),
)
