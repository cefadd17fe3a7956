"""Ids: our environments stand in Gymnasium's own registry, under the namespace `turnwise/`."""

from __future__ import annotations

from typing import Any

import gymnasium

from .adapters import ADAPTERS
from .core import NAMESPACE, TurnEnv, _parameters
from .errors import InvalidEnvironment, InvalidParameter, UnknownEnv, UsageError, nearest

UNLISTED = frozenset({"Remote-v1"})
"""Ids that cannot be made without parameters, which whoever goes through the list does not know: it leaves them out."""


def register(env_id: str, entry_point: type[TurnEnv] | str, **parameters: Any) -> None:
    """Register an environment under an id.

    Args:
        env_id: `Name-v0`; behaviour that changes gets a new version. It is `turnwise/Name-v0` for Gymnasium.
        entry_point: the class, or `module:Class`, which is imported when the environment is first made.
        parameters: defaults that differ from the class's own.

    Raises:
        InvalidEnvironment: the id has no version, or is taken by another class.
    """
    full = f"{NAMESPACE}/{env_id}"
    namespace, _, version = _parsed(env_id)
    if namespace is not None or version is None:
        raise InvalidEnvironment(
            f"an id is a name with a version and no namespace, like 'Maze-v0'; got {env_id!r}"
        )
    if not isinstance(entry_point, str) and not (
        isinstance(entry_point, type) and issubclass(entry_point, TurnEnv)
    ):
        raise InvalidEnvironment(
            f"{env_id}: the entry point must be a TurnEnv class or 'module:Class', got {entry_point!r}"
        )
    taken = gymnasium.registry.get(full)
    if taken is not None and _name(taken.entry_point) != _name(entry_point):
        raise InvalidEnvironment(
            f"{env_id!r} is already registered for {_name(taken.entry_point)}; choose another id"
        )
    gymnasium.registry.pop(full, None)
    gymnasium.register(id=full, entry_point=entry_point, kwargs=parameters, order_enforce=False)


def _parsed(env_id: str) -> tuple[str | None, str, int | None]:
    try:
        return gymnasium.envs.registration.parse_env_id(env_id)
    except gymnasium.error.Error as error:
        raise InvalidEnvironment(f"{env_id!r} is not an id: {error}") from None


def _name(entry_point: Any) -> str:
    if isinstance(entry_point, str):
        return entry_point
    return f"{entry_point.__module__}:{entry_point.__qualname__}"


def env_ids() -> list[str]:
    """The registered ids without the namespace, sorted; all of them can be made without parameters."""
    prefix = f"{NAMESPACE}/"
    found = {i.removeprefix(prefix) for i in gymnasium.registry if i.startswith(prefix)}
    return sorted(i for i in found - UNLISTED if ":" not in i)


def known_names() -> list[str]:
    """What an id may be: the registered ids, and `SOURCE:` for any name of that library."""
    return [*env_ids(), *(f"{source}:" for source in sorted(ADAPTERS))]


def env_class(env_id: str) -> type[TurnEnv]:
    """The class behind an id, without making an environment.

    Raises:
        UnknownEnv: no environment is registered under the id.
    """
    cls: Any = _spec(env_id).entry_point
    if isinstance(cls, str):
        cls = gymnasium.envs.registration.load_env_creator(cls)
    if not (isinstance(cls, type) and issubclass(cls, TurnEnv)):
        raise InvalidEnvironment(f"{env_id}: the entry point {cls!r} is not a TurnEnv class")
    return cls


def _spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    short = str(env_id).removeprefix(NAMESPACE + "/")
    full = f"{NAMESPACE}/{short}"
    if full in gymnasium.registry:
        return gymnasium.registry[full]
    source, colon, name = short.partition(":")
    if not (colon and name and source in ADAPTERS):
        raise UnknownEnv(env_id, known_names())
    try:
        gymnasium.register(id=full, entry_point=ADAPTERS[source], kwargs={"name": name}, order_enforce=False)
    except gymnasium.error.Error as error:
        raise UsageError(f"{env_id!r} is not an id: {error}") from None
    return gymnasium.registry[full]


def make(env_id: str, **parameters: Any) -> TurnEnv:
    """Make an environment, unwrapped; `gymnasium.make("turnwise/<id>")` gives the same one in Gymnasium's wrappers.

    Raises:
        UnknownEnv: no environment is registered under the id; the message names the nearest.
        InvalidParameter: a parameter that it does not have, or a value that it does not take.
    """
    spec = _spec(env_id)
    known = _parameters(env_class(env_id)).keys() | spec.kwargs.keys() | {"render_mode"}
    for name in parameters:
        if name not in known:
            raise InvalidParameter(
                f"{env_id} has no parameter {name!r}.{nearest(name, known)} It has {', '.join(sorted(known))}."
            )
    env = gymnasium.make(spec, disable_env_checker=True, **parameters)
    assert isinstance(env, TurnEnv)
    return env
