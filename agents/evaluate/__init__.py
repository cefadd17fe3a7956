"""Evaluation: panels of tasks, figures with intervals, comparison of agents, re-scoring of what was saved."""

from .evaluation import Evaluation, Panel, evaluate
from .figures import Figures, Prices, figures
from .paired import Comparison, PairedEvaluation, compare_evaluations, read_evaluation
from .report import markdown, tables
from .rescore import Rescored, rescore
from .statistics import Estimate

__all__ = [
    "Comparison",
    "Estimate",
    "Evaluation",
    "Figures",
    "PairedEvaluation",
    "Panel",
    "Prices",
    "Rescored",
    "compare_evaluations",
    "evaluate",
    "figures",
    "markdown",
    "read_evaluation",
    "rescore",
    "tables",
]
