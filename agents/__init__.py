"""Layer 2: whatever can take a turn.

`LocalAgent` needs torch and transformers; they are imported when it is first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import __version__ as __version__  # a plain `import agents` from the root must fail
from .best_of_n import BestOfN
from .expert import ExpertAgent
from .human import HumanAgent
from .majority import Majority
from .openai import OpenAIAgent
from .random import RandomAgent
from .reflect import Reflect
from .rerank import Reranker
from .reward_model import RewardModel
from .scripted import ScriptedAgent
from .self_certainty import SelfCertainty
from .tree import TreeSearch

if TYPE_CHECKING:
    from .local import LocalAgent

__all__ = [
    "BestOfN",
    "ExpertAgent",
    "HumanAgent",
    "LocalAgent",
    "Majority",
    "OpenAIAgent",
    "RandomAgent",
    "Reflect",
    "Reranker",
    "RewardModel",
    "ScriptedAgent",
    "SelfCertainty",
    "TreeSearch",
]


def __getattr__(name: str) -> Any:
    if name == "LocalAgent":
        return import_module(".local", __name__).LocalAgent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
