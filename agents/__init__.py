"""Layer 2: whatever can take a turn.

`LocalAgent` needs torch and transformers; they are imported when it is first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import __version__ as __version__  # a plain `import agents` from the root must fail
from .expert import ExpertAgent
from .human import HumanAgent
from .openai import OpenAIAgent
from .random import RandomAgent
from .scripted import ScriptedAgent

if TYPE_CHECKING:
    from .local import LocalAgent

__all__ = ["ExpertAgent", "HumanAgent", "LocalAgent", "OpenAIAgent", "RandomAgent", "ScriptedAgent"]


def __getattr__(name: str) -> Any:
    if name == "LocalAgent":
        return import_module(".local", __name__).LocalAgent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
