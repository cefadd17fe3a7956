"""Evaluation: panels of tasks, figures with intervals, comparison of agents, re-scoring of what was saved."""

from .evaluation import Evaluation, Panel, evaluate
from .figures import Figures, Prices, figures
from .report import markdown, tables
from .statistics import Estimate

__all__ = [
    "Estimate",
    "Evaluation",
    "Figures",
    "Panel",
    "Prices",
    "evaluate",
    "figures",
    "markdown",
    "tables",
]
