"""Families about texts."""

from __future__ import annotations

from .family import family, of_topic, word, words

STRINGS = of_topic(
    "strings",
    family(
        "caesar",
        "easy",
        "text: str -> str",
        "Replace every letter a to z and A to Z by the one $k places later in the alphabet, starting again at the front behind z; keep all else.",
        """
        found = []
        for c in text:
            if "a" <= c <= "z":
                c = chr((ord(c) - 97 + $k) % 26 + 97)
            elif "A" <= c <= "Z":
                c = chr((ord(c) - 65 + $k) % 26 + 65)
            found.append(c)
        return "".join(found)
        """,
        [
            (" + $k) % 26 + 97", " + $k) + 97"),
            ('elif "A" <= c <= "Z"', "elif False"),
            ("(ord(c) - 97 + $k)", "(ord(c) - 97 - $k)"),
        ],
        lambda r, p: (word(r, 14, "abcxyzmnABCXYZMN  .,!"),),
        [("",), ("z",), ("Z a",), ("Hello, World!",), ("mnopq xyz",)],
        k=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20),
    ),
    family(
        "count_letters",
        "easy",
        "text: str -> int",
        "Count the characters of the text that are one of $letters, in either case, and $which.",
        """
        total = 0
        for i, c in enumerate(text):
            if c.lower() in "$letters":
                if "$which".startswith("stand") or i == 0 or text[i - 1] != c:
                    total += 1
        return total
        """,
        [("c.lower()", "c"), ("total += 1", "total = 1"), ("enumerate(text)", "enumerate(text[:-1])")],
        lambda r, p: (word(r, 16, p.letters + p.letters.upper() + "pq rs"),),
        lambda p: [("",), (p.letters,), (p.letters.upper() * 2,), (p.letters[0] * 3,), ("rhythm",)],
        letters=("aeiou", "abc", "xyz", "lmn", "st"),
        which=("stand anywhere", "do not repeat the character just before"),
    ),
    family(
        "run_lengths",
        "easy",
        "text: str -> str",
        """Encode the text by its runs: every run of one character becomes the character, "$sep" and the length of the run.
        Where a run is $short, write the characters themselves instead.""",
        """
        found, i = [], 0
        while i < len(text):
            j = i
            while j < len(text) and text[j] == text[i]:
                j += 1
            if j - i > {"of length 1": 1, "of length 1 or 2": 2}["$short"]:
                found.append(text[i] + "$sep" + str(j - i))
            else:
                found.append(text[i:j])
            i = j
        return "".join(found)
        """,
        [
            ("j - i >", "j - i >="),
            ("str(j - i)", "str(j - i - 1)"),
            ('"$sep" + str(j - i)', 'str(j - i) + "$sep"'),
            ("found.append(text[i:j])", "pass"),
        ],
        lambda r, p: ("".join(r.choice("abc") * r.randint(1, 4) for _ in range(r.randint(0, 6))),),
        [("",), ("a",), ("aab",), ("abbb",), ("aaaabbbbcc",)],
        sep=("x", "*", "-", ":", "=", "~"),
        short=("of length 1", "of length 1 or 2"),
    ),
    family(
        "pick_word",
        "easy",
        "text: str -> str",
        """The words of the text are separated by "$sep"; empty ones do not count. Return the $what word, the $tie of them where several
        are equally long, and an empty text where there is no word.""",
        """
        best = ""
        for w in text.split("$sep"):
            if w and (not best or {"longest": len(w) > len(best), "shortest": len(w) < len(best)}["$what"]
                      or "$tie" == "last" and len(w) == len(best)):
                best = w
        return best
        """,
        [
            (
                '{"longest": len(w) > len(best), "shortest": len(w) < len(best)}',
                '{"longest": len(w) < len(best), "shortest": len(w) > len(best)}',
            ),
            ('"$tie" == "last" and len(w) == len(best)', '"$tie" == "first" and len(w) == len(best)'),
            ('text.split("$sep")', 'text.split("$sep")[:-1]'),
            ('text.split("$sep")', 'text.split("$sep")[1:]'),
        ],
        lambda r, p: (p.sep.join(words(r, 7, 4)),),
        lambda p: [
            ("",),
            (p.sep,),
            (p.sep.join(["ab", "cd", "e", "f"]),),
            (p.sep.join(["a", "bcd", "", "efg"]),),
            (f"aa{p.sep}{p.sep}b",),
        ],
        sep=(",", ";", "|", "/"),
        what=("longest", "shortest"),
        tie=("first", "last"),
    ),
    family(
        "rotate_text",
        "easy",
        "text: str -> str",
        "Rotate the text by $k places to the $side: rotating abcde by one place to the left gives bcdea. Rotating by the length changes nothing.",
        """
        if not text:
            return text
        k = $k % len(text)
        if "$side" == "right":
            k = len(text) - k
        return text[k:] + text[:k]
        """,
        [
            ("$k % len(text)", "$k if $k < len(text) else 0"),
            ('"$side" == "right"', '"$side" == "left"'),
            ("text[k:] + text[:k]", "text[k:] + text[:k][::-1]"),
        ],
        lambda r, p: (word(r, 10),),
        lambda p: [("",), ("a",), ("ab",), ("abc",), ("abcdefghij",), ("abcdefg",)],
        k=(3, 4, 5, 7, 8, 9),
        side=("left", "right"),
    ),
    family(
        "every_kth_word",
        "easy",
        "text: str -> str",
        "The words of the text are separated by single blanks. Put the words at the places $first, $first + $k, $first + 2 * $k and so on (counted from 1) into $case.",
        """
        found = text.split(" ")
        for i in range($first - 1, len(found), $k):
            found[i] = found[i].upper() if "$case" == "upper case" else found[i][::-1]
        return " ".join(found)
        """,
        [
            ("$first - 1", "$first"),
            ("len(found), $k", "len(found), $k + 1"),
            ("len(found), $k", "len(found) - 1, $k"),
        ],
        lambda r, p: (" ".join(words(r, 9, 5, "abcde", 1)),),
        [("",), ("ab",), ("ab cd",), ("ab cd ef gh ij kl mn op",), ("one two three four five six seven",)],
        k=(2, 3, 4),
        first=(1, 2),
        case=("upper case", "reverse order of letters"),
    ),
    family(
        "shorten",
        "easy",
        "text: str -> str",
        """Return the text unchanged if it has at most $n characters. Otherwise cut it so that it has $n characters with "$end" behind it,
        and take the blanks before "$end" away.""",
        """
        if len(text) <= $n:
            return text
        return text[: $n - len("$end")].rstrip(" ") + "$end"
        """,
        [("<= $n", "< $n"), ('$n - len("$end")', "$n"), ('.rstrip(" ")', "")],
        lambda r, p: (word(r, p.n + 6, "abcd  ", p.n - 3),),
        lambda p: [("",), ("a" * p.n,), ("a" * (p.n + 1),), ("a" * (p.n - len(p.end) - 1) + "   bcdef",)],
        n=(6, 7, 8, 9, 10, 12),
        end=("...", "..", "~~"),
    ),
    family(
        "count_pattern",
        "medium",
        "text: str, pattern: str -> int",
        "Count how often the pattern (not empty) occurs in the text from index $start on. Occurrences $overlap, and case $case.",
        """
        if "$case" == "does not matter":
            text, pattern = text.lower(), pattern.lower()
        total, i = 0, $start
        while True:
            i = text.find(pattern, i)
            if i < 0:
                return total
            total += 1
            i += 1 if "$overlap" == "may overlap" else len(pattern)
        """,
        [
            ('"$overlap" == "may overlap"', '"$overlap" != "may overlap"'),
            ("0, $start", "0, $start + 1"),
            ('"$case" == "does not matter"', '"$case" == "matters"'),
        ],
        lambda r, p: (word(r, 14, "aab" + "A", 4), word(r, 3, "aab")),
        lambda p: [
            ("", "a"),
            ("x" * p.start + "aaaa", "aa"),
            ("abABab" + "ab", "ab"),
            ("y" * p.start + "AbaBaba", "aba"),
            ("aaaaaaa", "aaa"),
        ],
        start=(0, 1, 2),
        overlap=("may overlap", "may not overlap"),
        case=("matters", "does not matter"),
    ),
    family(
        "to_camel",
        "easy",
        "name: str -> str",
        """The parts of the name are separated by "$sep"; parts may be empty and then count for nothing. Join them without separator, each part in lower case
        but with a capital first letter; the first part begins with a $first letter.""",
        """
        parts = [part.lower() for part in name.split("$sep") if part]
        parts = [part[0].upper() + part[1:] for part in parts]
        if parts and "$first" == "small":
            parts[0] = parts[0].lower()
        return "".join(parts)
        """,
        [
            ("part.lower() for", "part for"),
            ('"$first" == "small"', '"$first" == "capital"'),
            ("part[0].upper() + part[1:]", "part"),
        ],
        lambda r, p: (p.sep.join(words(r, 4, 5, "abcDE")),),
        lambda p: [("",), (p.sep,), (f"user{p.sep}id",), (f"{p.sep}a{p.sep}{p.sep}Bc{p.sep}DEF",), ("word",)],
        sep=("_", "-", ".", ":", "/", "+"),
        first=("small", "capital"),
    ),
    family(
        "limit_repeats",
        "medium",
        "text: str -> str",
        "Shorten every run of more than $k equal characters to $k characters. Capital and small letters are $case; the first characters of a run stay.",
        """
        found, run = [], 0
        for i, c in enumerate(text):
            same = i > 0 and (text[i - 1] == c or "$case" == "equal" and text[i - 1].lower() == c.lower())
            run = run + 1 if same else 1
            if run <= $k:
                found.append(c)
        return "".join(found)
        """,
        [
            ("run <= $k", "run < $k"),
            ('"$case" == "equal"', '"$case" == "different"'),
            ("run + 1 if same else 1", "run + 1"),
        ],
        lambda r, p: ("".join(r.choice("aAb") * r.randint(1, 5) for _ in range(r.randint(0, 6))),),
        [("",), ("aaaaaaaa",), ("aAaAaAaAaA",), ("abcabcabcabc",), ("bbbbbbbAaAaAaAa",)],
        k=(1, 2, 3, 4, 5),
        case=("equal", "different"),
    ),
)
