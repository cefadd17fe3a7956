"""Families about integers."""

from __future__ import annotations

from .family import family, ints, of_topic

NUMBERS = of_topic(
    "numbers",
    family(
        "digit_powers",
        "easy",
        "n: int -> int",
        "Return the sum of the $k-th powers of the decimal digits of n (n >= 0) that are $which.",
        """
        total = 0
        for digit in map(int, str(n)):
            if digit % 2 in {"even": (0,), "odd": (1,), "even or odd": (0, 1)}["$which"]:
                total += digit ** $k
        return total
        """,
        [("** $k", "* $k"), ("total += digit", "total = digit"), ("str(n)", "str(n)[1:]")],
        lambda r, p: (r.randint(0, 10 ** r.randint(1, 8)),),
        [(0,), (7,), (8,), (123456789,)],
        k=range(2, 7),
        which=("even", "odd", "even or odd"),
    ),
    family(
        "count_divisible",
        "easy",
        "low: int, high: int -> int",
        "Count the integers from low to high, both included, that are divisible by $k but not by $m.",
        """
        return sum(1 for n in range(low, high + 1) if n % $k == 0 and n % $m != 0)
        """,
        [("high + 1", "high"), ("n % $m != 0", "n > 0"), ("and", "or"), ("low,", "low + 1,")],
        lambda r, p: ((a := r.randint(-30, 30)), a + r.randint(-2, 60)),
        lambda p: [(p.k, p.k), (0, 0), (5, 4), (-p.k, p.k), (0, p.k * p.m), (-5 * p.k, -p.k)],
        k=(2, 3, 4),
        m=(5, 7, 9, 11),
    ),
    family(
        "to_base",
        "easy",
        "n: int -> str",
        "Write the integer n in base $b, with the digits $digits and a minus sign before a negative number.",
        """
        if n == 0:
            return "$digits"[0]
        text, rest = "", abs(n)
        while rest:
            text = "$digits"[rest % $b] + text
            rest //= $b
        return "-" + text if n < 0 else text
        """,
        [
            ('"$digits"[rest % $b] + text', 'text + "$digits"[rest % $b]'),
            ('"-" + text if n < 0 else text', "text"),
            ('return "$digits"[0]', 'return ""'),
        ],
        lambda r, p: (r.randint(-(10 ** r.randint(1, 6)), 10 ** r.randint(1, 6)),),
        lambda p: [(0,), (p.b,), (-1,), (p.b * p.b + 1,)],
        b=(2, 3, 4, 5, 6, 7, 8),
        digits=("01234567", "abcdefgh", "76543210"),
    ),
    family(
        "hailstone",
        "easy",
        "n: int -> int",
        """Start with n >= 1. Halve an even number, and replace an odd number x by 3 * x + 1. Return the $what, where at most $limit
        steps are made and the walk ends as soon as it is at 1.""",
        """
        steps, peak = 0, n
        while n != 1 and steps < $limit:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            steps += 1
            peak = max(peak, n)
        return {"number of steps": steps, "largest number met": peak, "last number": n}["$what"]
        """,
        [
            ("steps < $limit", "steps <= $limit"),
            ("3 * n + 1", "3 * n - 1"),
            ("n % 2 == 0", "n % 2 == 1"),
        ],
        lambda r, p: (r.randint(1, 200),),
        [(1,), (2,), (3,), (27,), (64,), (97,), (171,)],
        limit=(5, 8, 11, 14, 20),
        what=("number of steps", "last number"),
    ),
    family(
        "prime_in_class",
        "medium",
        "n: int -> int",
        "Return the n-th prime (n >= 1) that leaves the remainder $r when it is divided by $m.",
        """
        candidate = 1
        while n:
            candidate += 1
            if candidate % $m == $r and all(candidate % d for d in range(2, int(candidate**0.5) + 1)):
                n -= 1
        return candidate
        """,
        [
            ("int(candidate**0.5) + 1", "min(int(candidate**0.5) + 1, 5)"),
            ("while n:", "while n > 1:"),
            ("% $m == $r", "% $m != $r"),
        ],
        lambda r, p: (r.randint(1, 25),),
        [(1,), (2,), (3,), (9,), (14,), (20,)],
        m=(7, 11),
        r=(1, 2, 3, 4, 5, 6),
    ),
    family(
        "coprime",
        "easy",
        "numbers: list[int] -> list[int]",
        "Return the numbers, in their order, that share no divisor above 1 with $k. Zero shares all divisors.",
        """
        def gcd(a, b):
            while b:
                a, b = b, a % b
            return abs(a)

        return [n for n in numbers if gcd(n, $k) == 1]
        """,
        [
            ("== 1", "!= 1"),
            ("gcd(n, $k) == 1", "n % $k != 0"),
            ("gcd(n, $k) == 1", "n > 0 and gcd(n, $k) == 1"),
        ],
        lambda r, p: (ints(r, 10, -40, 60),),
        lambda p: [([],), ([0, 1, -1],), ([p.k, 2 * p.k, p.k + 1],), ([2, 3, 4, 5, 6, 7, 9, 10, 14, 15],)],
        k=(6, 10, 12, 14, 15, 18, 20, 21, 22, 24, 28, 30, 35, 36, 45),
    ),
    family(
        "digital_root",
        "medium",
        "n: int -> int",
        "Add the digits that n >= 0 has in base $b, add the digits of the sum in base $b, and so on until the number is below $b; return it.",
        """
        while n >= $b:
            total = 0
            while n:
                total += n % $b
                n //= $b
            n = total
        return n
        """,
        [("while n >= $b", "if n >= $b"), ("n >= $b", "n > $b"), ("n % $b", "n % ($b - 1)")],
        lambda r, p: (r.randint(0, 10 ** r.randint(1, 9)),),
        lambda p: [
            (0,),
            (p.b,),
            (p.b - 1,),
            (p.b**2 - 1,),
            (p.b**9 - 1,),
            (p.b**4 + p.b**3 * (p.b - 1) + 5,),
        ],
        b=(4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 18, 20),
    ),
    family(
        "round_to",
        "easy",
        "n: int -> int",
        "Round the integer n to the nearest multiple of $k; a number half way between two multiples goes $ties.",
        """
        below = n // $k * $k
        above = below + $k
        if n - below != above - n:
            return below if n - below < above - n else above
        return {"up": above, "down": below, "towards zero": min(below, above, key=abs)}["$ties"]
        """,
        [
            ("n // $k * $k", "int(n / $k) * $k"),
            ("below if n - below < above - n else above", "below"),
            (
                'return {"up": above, "down": below, "towards zero": min(below, above, key=abs)}["$ties"]',
                'return {"up": below, "down": above, "towards zero": max(below, above, key=abs)}["$ties"]',
            ),
        ],
        lambda r, p: (r.randint(-60, 60),),
        lambda p: [
            (0,),
            (p.k // 2,),
            (-p.k // 2,),
            (p.k,),
            (p.k + p.k // 2,),
            (-1,),
            (-p.k - p.k // 2,),
            (p.k - 1,),
        ],
        k=(4, 6, 8, 10, 12, 14),
        ties=("up", "down", "towards zero"),
    ),
)
