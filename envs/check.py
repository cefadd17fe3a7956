"""`check`: tests any environment against the contract, a user's own included."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CheckReport:
    """x"""

    env_id: str
    problems: dict[str, str] = field(default_factory=dict)


def check(env_id: str) -> CheckReport:
    """x"""
    return CheckReport(env_id)
