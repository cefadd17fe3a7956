"""The guard of information gain: an agent that writes the accepted answer into a query gains nothing by it.

A query that holds an accepted answer raises the belief in it, because the policy copies what stands in its context: from
the query itself, and from an environment that repeats it ("no results for Paris"). Neither is information. So in the
contexts in which beliefs are taken, and nowhere else,

- the accepted answers are removed from an action whose call holds one,
- what answers it loses them too,
- and from then on every observation loses the spans that are equal to such a query.

What an environment says by itself stays, so that an answer that was found is not lost by asking for it again. Episodes
without such a query are scored as they are.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...envs import Trajectory, Turn


class Context(NamedTuple):
    """The tokens of an episode up to its last checkpoint.

    Attributes:
        tokens: token ids.
        ends: for each checkpoint, how many of them stand before it.
        leaks: how many queries were found to hold an accepted answer.
    """

    tokens: list[int]
    ends: list[int]
    leaks: int


def context(trajectory: Trajectory) -> Context:
    """The episode's tokens as they were sampled, and where its checkpoints are."""
    tokens: list[int] = []
    ends: list[int] = []
    for k, turn in enumerate(trajectory.turns):
        if k:
            tokens += trajectory.turns[k - 1].action_ids
        tokens += turn.prompt_ids
        ends.append(len(tokens))
    return Context(tokens, ends, 0)


def guarded_context(
    trajectory: Trajectory, answers: Sequence[str], text: Callable[[Sequence[int]], str]
) -> Context:
    """The same without what the agent's own queries said about the accepted answers.

    Args:
        trajectory: with tokens.
        answers: the accepted answers; upper and lower case and the amount of white space do not matter, and an answer is
            only found as a whole word, or repeated as one ("ParisParis").
        text: decodes token ids.
    """
    # In a JSON call an answer stands with its quotes escaped.
    found = _pattern([*answers, *(json.dumps(a, ensure_ascii=False)[1:-1] for a in answers)], words=True)
    queries: list[str] = []
    tokens: list[int] = []
    ends: list[int] = []
    asked = False
    leaks = 0
    for k, turn in enumerate(trajectory.turns):
        if k:
            before = trajectory.turns[k - 1]
            own = _queries(before)
            asked = found is not None and any(found.search(q) for q in own)
            if asked:
                leaks += 1
                queries += own
            tokens += _without(before.action_ids, [found] if asked else [], text)
        echoes = [_pattern(queries, words=False)]
        tokens += _without(turn.prompt_ids, [*echoes, found] if asked else echoes, text, turn.observation)
        ends.append(len(tokens))
    return Context(tokens, ends, leaks)


def _queries(turn: Turn) -> list[str]:
    """What the agent told the environment: the arguments of its call, or the whole action where it is no valid call."""
    said = [turn.action] if turn.arguments is None else [str(value) for value in turn.arguments.values()]
    return [s.strip() for s in said if s.strip()]


def _pattern(texts: Sequence[str], *, words: bool) -> re.Pattern[str] | None:
    """Finds any of the texts, whatever their case and white space; as whole words on demand."""
    given = sorted({t for t in (" ".join(text.split()) for text in texts) if t}, key=len, reverse=True)
    if not given:
        return None
    found = []
    for t in given:
        body = r"\s+".join(map(re.escape, t.split()))
        if words:
            # Not of a number: 77 is not two sevens.
            body = body if t[-1].isdigit() else f"(?:{body})+"
            body = _border(t[0], "(?<![^\\W_])") + body + _border(t[-1], "(?![^\\W_])")
        found.append(body)
    return re.compile("|".join(found), re.IGNORECASE)


def _border(character: str, assertion: str) -> str:
    """The assertion that a word ends beside this character; none in scripts that put no space between words."""
    return "" if unicodedata.east_asian_width(character) in "WF" else assertion


def _without(
    ids: Sequence[int],
    patterns: Sequence[re.Pattern[str] | None],
    text: Callable[[Sequence[int]], str],
    inside: str | None = None,
) -> list[int]:
    """Token ids without those that hold a character of a match; `inside` confines the search to where that text stands."""
    ids = list(ids)
    given = [pattern for pattern in patterns if pattern is not None]
    if not given or not ids:
        return ids
    whole = text(ids)
    low, high = 0, len(whole)
    core = (inside or "").strip()
    if core and (at := whole.find(core)) >= 0:
        low, high = at, at + len(core)
    spans = [m.span() for pattern in given for m in pattern.finditer(whole, low, high)]
    if not spans:
        return ids
    # A character that takes several tokens is there once its last has come: until then it decodes to a replacement.
    borders = [len(text(ids[:n])) for n in range(len(ids) + 1)]
    return [
        token
        for token, a, b in zip(ids, borders, borders[1:], strict=False)
        if not any(a < end and max(b, a + 1) > start for start, end in spans)
    ]
