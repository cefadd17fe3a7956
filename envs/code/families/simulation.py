"""Families in which something is played through step by step, among them dates and clocks."""

from __future__ import annotations

from .family import family, ints, of_topic, word

SIMULATION = of_topic(
    "simulation",
    family(
        "robot",
        "medium",
        "moves: str -> list[int]",
        "A robot stands at [0, 0] and looks $heading (north is up, y grows; east is right, x grows). F is a step ahead, B a step back, L and R are quarter turns. Steps that would take x or y outside of -$n to $n are not made. Return [x, y].",
        """
        ways = [(0, 1), (1, 0), (0, -1), (-1, 0)]
        x, y, way = 0, 0, ["north", "east", "south", "west"].index("$heading")
        for move in moves:
            if move in "LR":
                way = (way + (1 if move == "R" else 3)) % 4
            else:
                sign = 1 if move == "F" else -1
                a, b = x + sign * ways[way][0], y + sign * ways[way][1]
                if abs(a) <= $n and abs(b) <= $n:
                    x, y = a, b
        return [x, y]
        """,
        [
            ("abs(a) <= $n and abs(b) <= $n", "True"),
            ("abs(a) <= $n", "abs(a) < $n"),
            ('move == "R" else 3', 'move == "L" else 3'),
            ('move == "F" else -1', 'move == "B" else -1'),
        ],
        lambda r, p: (word(r, 14, "FFFBLR", 0),),
        lambda p: [
            ("",),
            ("F",),
            ("FRFF",),
            ("LFB",),
            ("F" * (p.n + 2),),
            ("L" + "F" * (p.n + 2),),
            ("R" + "F" * p.n,),
            ("L" * 5 + "F",),
        ],
        heading=("north", "east", "south", "west"),
        n=(2, 3, 4),
    ),
    family(
        "round_robin",
        "medium",
        "work: list[int] -> list[int]",
        "Task i needs work[i] minutes (at least 1). The tasks wait in a queue in their order; the first works for at most $q minutes and, if it is not done, goes to the end of the queue, which takes $switch minutes. Return the minute at which each task is done.",
        """
        queue = [[i, minutes] for i, minutes in enumerate(work)]
        done, clock = [0] * len(work), 0
        while queue:
            i, minutes = queue.pop(0)
            used = min($q, minutes)
            clock += used
            if minutes > used:
                queue.append([i, minutes - used])
                clock += $switch
            else:
                done[i] = clock
        return done
        """,
        [
            ("clock += used", "clock += $q"),
            ("minutes - used]", "minutes - 1]"),
            ("queue.append([i, minutes - used])", "queue.insert(0, [i, minutes - used])"),
            ("clock += $switch", "clock += $switch + 1"),
        ],
        lambda r, p: (ints(r, 6, 1, 12),),
        lambda p: [([],), ([1],), ([p.q],), ([p.q + 1, 1],), ([9, 3, 7],), ([2 * p.q + 1, p.q, 3 * p.q],)],
        q=(2, 3, 4, 5, 6),
        switch=(0, 1, 2),
    ),
    family(
        "automaton",
        "hard",
        "cells: str, steps: int -> str",
        "The text is a row of cells, # is alive and . is dead; outside the row all cells are $outside. In a step a cell is alive exactly if, of itself and its two neighbours, $rule were alive. Return the row after the steps.",
        """
        for _ in range(steps):
            edge = "#" if "$outside" == "alive" else "."
            wide = edge + cells + edge
            cells = "".join("#" if wide[i : i + 3].count("#") in ($rule_set) else "." for i in range(len(cells)))
        return cells
        """.replace(
            "($rule_set)",
            '{"exactly 1": (1,), "exactly 2": (2,), "1 or 2": (1, 2), "1 or 3": (1, 3), "0 or 2": (0, 2), "2 or 3": (2, 3)}["$rule"]',
        ),
        [
            ('"$outside" == "alive"', '"$outside" != "alive"'),
            ("range(steps)", "range(steps + 1)"),
            ("wide[i : i + 3]", "wide[i + 1 : i + 3]"),
        ],
        lambda r, p: (word(r, 12, "#.", 0), r.randint(0, 4)),
        [
            ("", 3),
            ("#", 0),
            ("#", 1),
            (".", 1),
            ("..#..", 2),
            ("##.##.#", 3),
            ("#..#", 1),
            (".......", 1),
            ("#######", 1),
        ],
        outside=("dead", "alive"),
        rule=("exactly 1", "exactly 2", "1 or 2", "1 or 3", "0 or 2", "2 or 3"),
    ),
    family(
        "counting_out",
        "medium",
        "names: list[str] -> list[str]",
        "The children stand in a circle and count from the first one on: every $k-th child leaves, and counting goes on with the next. Return the names in the $order in which they leave.",
        """
        circle, found, at = list(names), [], 0
        while circle:
            at = (at + $k - 1) % len(circle)
            found.append(circle.pop(at))
        return found if "$order" == "order" else found[::-1]
        """,
        [
            ("at + $k - 1", "at + $k"),
            ('"$order" == "order"', '"$order" != "order"'),
            ("circle, found, at = list(names), [], 0", "circle, found, at = list(names), [], 1"),
        ],
        lambda r, p: ([f"{c}{word(r, 2)}" for c in "abcdefghij"[: r.randint(0, 10)]],),
        [([],), (["a"],), (["a", "b"],), (["a", "b", "c"],), (list("abcdefgh"),)],
        k=(2, 3, 4, 5, 6, 7),
        order=("order", "reversed order"),
    ),
    family(
        "stack_machine",
        "hard",
        "program: list[str] -> int",
        "A stack machine knows: a whole number (pushed), add, sub, mul (replace the two topmost numbers a, b, b on top, by the result of a with b), dup (push the topmost again), swap and drop. An instruction that lacks numbers on the stack $lacking. All results are taken modulo $m. Return the topmost number, or -1.",
        """
        stack = []
        for word in program:
            if word.lstrip("-").isdigit():
                stack.append(int(word) % $m)
                continue
            if len(stack) < {"add": 2, "sub": 2, "mul": 2, "swap": 2}.get(word, 1):
                if "$lacking" == "ends the program":
                    break
                continue
            b = stack.pop()
            if word == "dup":
                stack += [b, b]
            elif word != "drop":
                a = stack.pop()
                if word == "swap":
                    stack += [b, a]
                else:
                    stack.append({"add": a + b, "sub": a - b, "mul": a * b}[word] % $m)
        return stack[-1] if stack else -1
        """,
        [
            ('"sub": a - b', '"sub": b - a'),
            ('"$lacking" == "ends the program"', '"$lacking" != "ends the program"'),
            ("stack += [b, a]", "stack += [a, b]"),
            ("stack += [b, b]", "stack += [b]"),
        ],
        lambda r, p: (
            [
                r.choice(["add", "sub", "mul", "dup", "swap", "drop", *"3456789"])
                for _ in range(r.randint(0, 10))
            ],
        ),
        [
            ([],),
            (["5"],),
            (["5", "3", "sub"],),
            (["2", "9", "swap", "sub"],),
            (["add", "4"],),
            (["7", "dup", "mul"],),
            (["8", "drop", "drop", "6"],),
            (["99", "99", "mul"],),
            (["1", "add", "2"],),
        ],
        m=(50, 60, 64, 97, 100, 101),
        lacking=("is skipped", "ends the program"),
    ),
    family(
        "thermostat",
        "easy",
        "temperatures: list[int] -> int",
        "A heater is off. At every reading it goes on if the temperature is below $low and off if it is above $high; else it stays as it is. Return how often $what.",
        """
        on, switched, heated = False, 0, 0
        for t in temperatures:
            before = on
            if t < $low:
                on = True
            elif t > $high:
                on = False
            switched += on != before
            heated += on
        return {"it is switched": switched, "it is on after a reading": heated}["$what"]
        """,
        [
            ("t < $low", "t <= $low"),
            ("t > $high", "t >= $high"),
            ("on, switched, heated = False", "on, switched, heated = True"),
        ],
        lambda r, p: (ints(r, 12, p.low - 3, p.high + 3),),
        lambda p: [
            ([],),
            ([p.low, p.low - 1, p.high, p.high, p.high + 1],),
            ([p.low],),
            ([p.low - 1, p.high, p.low - 1],),
            ([p.high + 5],),
        ],
        low=(15, 17, 18),
        high=(20, 21, 24),
        what=("it is switched", "it is on after a reading"),
    ),
)

DATES = of_topic(
    "dates",
    family(
        "count_weekday",
        "medium",
        "first: str, last: str -> int",
        "Dates are written YYYY-MM-DD. Count the ${day}s from the first to the last date, both $ends.",
        """
        from datetime import date, timedelta

        a, b = date.fromisoformat(first), date.fromisoformat(last)
        if "$ends" == "excluded":
            a, b = a + timedelta(days=1), b - timedelta(days=1)
        names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
        return sum((a + timedelta(days=i)).weekday() == names.index("$day") for i in range((b - a).days + 1))
        """,
        [
            ("(b - a).days + 1", "(b - a).days"),
            ('"$ends" == "excluded"', '"$ends" != "excluded"'),
            ('names.index("$day")', '(names.index("$day") + 1) % 7'),
        ],
        lambda r, p: (
            f"{r.randint(1999, 2001)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}",
            f"2002-{r.randint(1, 12):02}-{r.randint(1, 28):02}",
        ),
        [
            ("2024-02-26", "2024-03-03"),
            *((f"2024-05-{d:02}", f"2024-05-{d:02}") for d in range(13, 20)),
            ("2024-05-06", "2024-05-13"),
            ("2024-05-07", "2024-05-14"),
            ("2024-05-08", "2024-05-15"),
            ("2024-05-09", "2024-05-16"),
            ("2024-05-10", "2024-05-17"),
            ("2024-05-11", "2024-05-18"),
            ("2024-05-12", "2024-05-19"),
        ],
        day=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        ends=("included", "excluded"),
    ),
    family(
        "leap_years",
        "easy",
        "first: int, last: int -> int",
        "In a calendar a year is a leap year if it is divisible by $a, unless it is divisible by $b; if it is divisible by $c as well, it is one after all. Count the leap years from first to last, both included.",
        """
        return sum((y % $a == 0 and y % $b != 0) or y % $c == 0 for y in range(first, last + 1))
        """,
        [("last + 1", "last"), (" or y % $c == 0", ""), (" and y % $b != 0", "")],
        lambda r, p: ((y := r.randint(1, 3000)), y + r.randint(0, 900)),
        lambda p: [(p.a, p.a), (p.b, p.b), (p.c, p.c), (1, 1), (p.c - 1, p.c + 1), (10, 5)],
        a=(4, 5),
        b=(80, 100, 120),
        c=(400, 600, 1200),
    ),
    family(
        "clock_add",
        "easy",
        "time: str, minutes: int -> str",
        "A time is written HH:MM; a day has $h hours of 60 minutes. Add the minutes (which may be negative), then round $way to a multiple of $r minutes, and return the time of day.",
        """
        total = int(time[:2]) * 60 + int(time[3:]) + minutes
        total = total // $r * $r if "$way" == "down" else -(-total // $r) * $r
        total %= $h * 60
        return f"{total // 60:02}:{total % 60:02}"
        """,
        [
            ("total %= $h * 60", "total = abs(total) % ($h * 60)"),
            ('"$way" == "down"', '"$way" != "down"'),
            (":02}:{total % 60:02}", "}:{total % 60}"),
            ("$h * 60", "($h + 1) * 60"),
        ],
        lambda r, p: (f"{r.randrange(p.h):02}:{r.randrange(60):02}", r.randint(-2000, 2000)),
        lambda p: [
            ("00:00", 0),
            ("00:00", -1),
            (f"{p.h - 1:02}:59", 1),
            ("08:07", 3),
            ("01:00", -75),
            (f"{p.h - 1:02}:50", 70),
            ("00:01", 0),
        ],
        h=(10, 20, 24),
        r=(5, 10, 15),
        way=("down", "up"),
    ),
    family(
        "nth_weekday",
        "medium",
        "year: int, month: int -> int",
        "Return the day of the month on which the $which $day of the month falls; 0 if there is none.",
        """
        from datetime import date, timedelta

        names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
        days, at = [], date(year, month, 1)
        while at.month == month:
            if at.weekday() == names.index("$day"):
                days.append(at.day)
            at += timedelta(days=1)
        place = {"first": 0, "second": 1, "fifth": 4, "last": -1}["$which"]
        return days[place] if place < len(days) else 0
        """,
        [
            ("at.weekday() ==", "at.isoweekday() % 7 =="),
            (
                '{"first": 0, "second": 1, "fifth": 4, "last": -1}',
                '{"first": 1, "second": 2, "fifth": 3, "last": 3}',
            ),
            ('names.index("$day")', 'names.index("$day") - 1'),
            ("return days[place] if", "return days[place] + 7 if"),
        ],
        lambda r, p: (r.randint(1990, 2030), r.randint(1, 12)),
        [
            (2024, 2),
            (2023, 2),
            (2024, 9),
            (2024, 12),
            (2024, 7),
            *((2024, m) for m in (1, 3, 4, 5, 6, 8, 10, 11)),
            (2025, 3),
            (2025, 6),
            (2026, 2),
        ],
        day=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        which=("first", "second", "fifth", "last"),
    ),
)
