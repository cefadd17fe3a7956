"""The nouns of a title, which the title score compares: the part-of-speech tagger is pluggable.

The original takes what spaCy calls NOUN or PROPN. It loads `en_core_web_sm`, its set-up script installs
`en_core_web_lg`, and forks take either, so that published scores do not share a tagger. Every report says which one
was used.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from ..errors import InvalidParameter

MODELS = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg", "en_core_web_trf")
"""The models of spaCy that `auto` looks for, in this order; the first is the one that the original's code loads."""

NOT_NOUNS = frozenset(
    """
    a an and are big by dark deep easy for free from high in is large light long more most natural new no non
    not of on or small soft the this to warm with
    """.split()  # noqa: SIM905
)
"""What the light tagger does not take for a noun: function words, and adjectives that titles are full of."""

Tagger = Callable[[str], tuple[str, ...]]
"""The nouns of a title, lower case, in order, repeated where they are."""

# spaCy's English tokenizer, reduced to what titles hold. It cuts 596 real titles just as spaCy 3.8 does.
_LETTER = r"[^\W\d_]"
_MARKS = r"\[\](){}<>\"”“„'’‘`,;:!?*&#_™®©°…¿¡、，。（）【】・"
_PREFIX = re.compile(rf"^(?:[{_MARKS}§%=—–$£€¥]+|\+(?!\d)|\.\.+)")
_SUFFIX = re.compile(
    rf"(?:['’][sS]|[{_MARKS}—–]+|\.\.+|(?<=[a-z0-9%²)\"'’+\-])\.|(?<=[A-Z][A-Z])\.|(?<=\d)\+)$"
)
_ABBREVIATION = re.compile(
    r"^(?:co|corp|dr|inc|jr|ltd|messrs|mr|mrs|ms|mt|no|prof|rev|sr|st|vs|gen|gov|lt)\.$"
)
_UNIT = re.compile(
    r"(?<=[0-9])(?:[kdcmn]?m|yd|in|ft|kg|g|mg|t|lb|oz|kmh|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K)$"
)
_INFIX = re.compile(
    rf"(?<=[^\W_])(?:--?|–|—|~)(?={_LETTER})|(?<=[^\W_])[:<>=/](?={_LETTER})|(?<={_LETTER}),(?={_LETTER})|\.\.+|…|(?<=[a-z])\.(?=[A-Z])"
)


def tagger(name: str) -> tuple[str, Tagger]:
    """A tagger, and the name under which reports mention it.

    Args:
        name: `light`; `spacy:MODEL`, a model's package or folder; or `auto`, which is the first installed of `MODELS`, else
            `light`.

    Raises:
        InvalidParameter: there is no such tagger, or it is not installed.
    """
    if name == "auto":
        installed = [m for m in MODELS if importlib.util.find_spec("spacy") and importlib.util.find_spec(m)]
        name = f"spacy:{installed[0]}" if installed else "light"
    kind, _, model = name.partition(":")
    if name == "light":
        return "light", light_nouns
    if kind == "spacy" and model:
        return name, _spacy(model)
    raise InvalidParameter(f"tagger={name!r} is unknown; it may be 'auto', 'light' or 'spacy:MODEL'")


@cache
def _spacy(model: str) -> Tagger:
    try:
        spacy: Any = importlib.import_module("spacy")
        nlp = spacy.load(model, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise InvalidParameter(
            f"tagger='spacy:{model}' is not installed ({error}); pip install 'turnwise[tagger]', then python -m spacy"
            f" download {model}, or take tagger='light'"
        ) from error

    @lru_cache(maxsize=100_000)
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(t.text.lower() for t in nlp(title) if t.pos_ in ("NOUN", "PROPN"))

    return nouns


@lru_cache(maxsize=100_000)
def light_nouns(title: str) -> tuple[str, ...]:
    """Every word of nothing but letters that is not in `NOT_NOUNS`, cut as spaCy cuts English."""
    return tuple(w for w in (word.lower() for word in _words(title) if word.isalpha()) if w not in NOT_NOUNS)


def _words(title: str) -> list[str]:
    words: list[str] = []
    for chunk in title.split():
        while found := _PREFIX.search(chunk):
            chunk = chunk[found.end() :]
        unit = None
        while chunk and not _ABBREVIATION.search(chunk[:1].lower() + chunk[1:]):
            if found := _SUFFIX.search(chunk):
                chunk = chunk[: found.start()]
            elif unit is None and (unit := _UNIT.search(chunk)):
                chunk = chunk[: unit.start()]
            else:
                break
        words += _INFIX.split(chunk)
        if unit is not None:
            words.append(unit[0])
    return words
