"""Credit: what each turn of a trajectory contributed, one registered pure function per scheme."""

from . import gigpo, grpo, rloo, turn_returns  # noqa: F401  (importing registers)
from .registry import (
    BadParameter,
    CreditError,
    CreditExists,
    CreditSpec,
    Discount,
    Interval,
    Memory,
    MissingInput,
    Parameter,
    UnknownCredit,
    UnknownParameter,
    check,
    compute,
    credit_schemes,
    memory,
    register_credit,
    spec,
)
from .spreading import spread

__all__ = [
    "BadParameter",
    "CreditError",
    "CreditExists",
    "CreditSpec",
    "Discount",
    "Interval",
    "Memory",
    "MissingInput",
    "Parameter",
    "UnknownCredit",
    "UnknownParameter",
    "check",
    "compute",
    "credit_schemes",
    "memory",
    "register_credit",
    "spec",
    "spread",
]
