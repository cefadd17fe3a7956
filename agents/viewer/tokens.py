"""The texts of an action's tokens, by the tokenizer of the run; or why there are none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

_LONGEST_CHARACTER = 4
"""Tokens that one character may need: UTF-8 has at most four bytes."""

_lock = threading.Lock()


def token_texts(ids: Sequence[int], run: Path, agent: str) -> tuple[list[str] | None, str]:
    """What each token stands for.

    Args:
        ids: of the tokens.
        run: the run folder or trajectory file.
        agent: the trajectory's agent, which may name a model folder (`local:FOLDER`).

    Returns:
        One text per id and an empty reason; or None and the reason. A character that several tokens make up stands
        with the last of them.
    """
    path = tokenizer_file(run, agent)
    if path is None:
        return (
            None,
            "no checkpoint with a tokenizer.json lies beside the trajectories; token numbers are shown",
        )
    with _lock:
        try:
            tokenizer = _tokenizer(path)
        except ImportError:
            return (
                None,
                "token texts need the tokenizers package: pip install 'turnwise[train]'; token numbers are shown",
            )
        except Exception as error:  # the library raises bare Exception
            return None, f"{path} cannot be read ({error}); token numbers are shown"
    if any(tokenizer.id_to_token(i) is None for i in ids):
        return None, f"{path} does not know some of these tokens; token numbers are shown"
    texts: list[str] = []
    waiting: list[int] = []
    for i in ids:
        waiting.append(i)
        text = tokenizer.decode(waiting, skip_special_tokens=False)
        if text.endswith("\ufffd") and len(waiting) < _LONGEST_CHARACTER:
            texts.append("")
        else:
            texts.append(text)
            waiting = []
    if waiting:
        texts[-1] = tokenizer.decode(waiting, skip_special_tokens=False)
    return texts, ""


def tokenizer_file(run: Path, agent: str) -> Path | None:
    """The tokenizer of the run's last checkpoint, else of the model that the agent's name points at."""
    folder = run if run.is_dir() else run.parent
    places = sorted(folder.glob("checkpoints/step-*/tokenizer.json"), key=lambda p: (len(p.parent.name), p))
    places += sorted(
        folder.glob("../checkpoints/step-*/tokenizer.json"), key=lambda p: (len(p.parent.name), p)
    )
    if places:
        return places[-1]
    _, colon, model = agent.partition(":")
    found = Path(model, "tokenizer.json")
    return found if colon and found.is_file() else None


@lru_cache(maxsize=8)
def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))
