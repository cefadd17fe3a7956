"""One file that shows chosen trajectories without a server: the page, with what it would ask for put into it."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_json

from ...envs.errors import UsageError
from .library import Library, split_at
from .server import Api, read_static
from .tokens import token_texts

MOST_BYTES = 64 << 20
"""What a browser still opens without complaint."""

_MODULES = ("dom", "data", "pictures", "trajectory", "beside", "curves", "table", "app")
"""Each after those that it imports from."""

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const) (\w+))", re.MULTILINE)


class Exported(NamedTuple):
    """What was written.

    Attributes:
        trajectories: how many are in the page.
        matched: how many the filter picks.
        bytes: size of the file.
    """

    trajectories: int
    matched: int
    bytes: int


def export(
    library: Library, path: Path, *, q: str = "", limit: int = 200, most_bytes: int = MOST_BYTES
) -> Exported:
    """Write the page.

    Args:
        library: read to the end before.
        path: of the file; one that is there is written over.
        q: picks the trajectories, see `filters`.
        limit: how many at most: those of the latest steps.
        most_bytes: the file ends up no larger; fewer trajectories are taken where they would not fit.

    Raises:
        UsageError: the filter cannot be understood, picks nothing, or not even one trajectory fits.
    """
    library.refresh()
    api = Api(library)
    while (selection := api.select(library.snapshot, q, "-step")).searched < 1:
        time.sleep(0.05)
    now = library.snapshot
    if not len(selection.numbers):
        raise UsageError(
            f"nothing to export: no trajectory fits {q!r}"
            if q
            else "nothing to export: there are no trajectories"
        )
    state = api.state()
    curves = api.curves(state["metrics"])
    about = {"date": time.strftime("%Y-%m-%d"), "matched": len(selection.numbers)}
    size = (
        len(_written([about, state, curves]))
        + sum(len(read_static(f"{name}.js")) for name in _MODULES)
        + len(read_static("style.css"))
    )

    rows: list[dict[str, Any]] = []
    trajectories: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    for number in selection.numbers[:limit]:
        row = api.row(now, int(number))
        at = row["at"]
        whole = api.trajectory(at)
        kept = _without_prompts(whole)
        texts = _tokens(library, at, kept)
        size += len(_written(kept)) + len(_written(texts)) + len(_written(row)) + 2 * len(at) + 16
        if size > most_bytes:
            break
        rows.append(row | {"file": split_at(at)[1]})
        trajectories[at] = kept
        tokens |= texts
    if not rows:
        raise UsageError(
            f"not even one trajectory fits into {most_bytes:,} bytes; narrow the selection with --filter"
        )
    for kept in trajectories.values():
        for name in ("group", "elsewhere"):
            kept[name] = [row for row in kept[name] if row["at"] in trajectories]
    state |= {"progress": 1.0, "total": len(rows), "facets": _facets(rows, state["facets"])}
    data = {
        "about": about,
        "state": state,
        "curves": curves,
        "rows": rows,
        "trajectories": trajectories,
        "tokens": tokens,
    }
    page = _page(_written(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page)
    return Exported(len(rows), len(selection.numbers), len(page))


def _facets(rows: list[dict[str, Any]], fields: Iterable[str]) -> dict[str, list[list[Any]]]:
    """Which values the fields have in these rows, and how often, as the server's state has them."""
    found: dict[str, list[list[Any]]] = {}
    for field in fields:
        values = [("yes" if row[field] else "no") if field == "success" else row[field] for row in rows]
        counts = Counter(value for value in values if value not in ("", None))
        found[field] = [list(pair) for pair in sorted(counts.items())]
    return found


def _without_prompts(whole: dict[str, Any]) -> dict[str, Any]:
    """A trajectory without the token ids of prompts, which no view shows."""
    fields = whole["trajectory"]
    if fields is None:
        return whole
    turns = [{k: v for k, v in turn.items() if k != "prompt_ids"} for turn in fields["turns"]]
    return {**whole, "trajectory": {**fields, "turns": turns}}


def _tokens(library: Library, at: str, whole: dict[str, Any]) -> dict[str, Any]:
    fields = whole["trajectory"]
    found = {}
    for n, turn in enumerate(fields["turns"] if fields is not None else []):
        if turn.get("action_log_probs"):
            ids = [int(i) for i in turn.get("action_ids") or []]
            texts, reason = token_texts(ids, library.runs[split_at(at)[0]].path, str(fields.get("agent", "")))
            found[f"{at}#{n}"] = {
                "ids": ids,
                "log_probs": turn["action_log_probs"],
                "texts": texts,
                "reason": reason,
            }
    return found


def _written(value: Any) -> bytes:
    # Within a script element nothing may look like its end; in JSON every < stands in a text.
    return to_json(value, inf_nan_mode="null").replace(b"<", b"\\u003c")


def _page(data: bytes) -> bytes:
    style, script = (
        read_static("style.css"),
        _bundle(lambda name: read_static(f"{name}.js").decode()).encode(),
    )
    policy = f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
    return b"".join(
        [
            b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'.encode(),
            b'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>turnwise</title>\n<style>',
            style,
            b'</style>\n</head>\n<body>\n<header id="bar"></header>\n<div id="notices" role="status"></div>\n',
            b'<main id="page" tabindex="-1"></main>\n<script type="application/json" id="data">',
            data,
            b'</script>\n<script type="module">',
            script,
            b"</script>\n</body>\n</html>\n",
        ]
    )


def _digest(code: bytes) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(code).digest()).decode()}"


def _bundle(read: Callable[[str], str]) -> str:
    """The modules as functions in one script, since a file cannot import from beside itself."""
    parts = []
    for name in _MODULES:
        code = _IMPORT.sub(r"const \1 = \2;", read(name))
        names = ", ".join(_EXPORT.findall(code))
        parts.append(f"const {name} = (() => {{\n{_EXPORT.sub('', code)}\nreturn {{ {names} }};\n}})();\n")
    return "".join(parts)
