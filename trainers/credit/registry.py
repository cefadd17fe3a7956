"""The registry of credit schemes and `compute`, the one door to them.

A credit scheme is a pure function from a `TurnBatch` to one advantage per turn. It is registered under a name, and its
keyword parameters, with their annotations, are its configuration:

    @register_credit("centred", needs=("values",))
    def centred(batch: TurnBatch, *, gamma: Discount = 1.0) -> Tensor:
        ...

What a scheme may take for granted, because `compute` sees to it: every trajectory of the batch is valid and has at
least one turn, float fields of shape [B] and [B, K] are float64, padding cells of rewards, values, entropy and extra
are 0, and there is at least one trajectory. What it must give: a finite [B, K] (or [R, L] for `level="token"`) tensor;
whatever it leaves in padding is overwritten with 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..batch import TurnBatch
from ..parameters import Ddof as Ddof
from ..parameters import Discount as Discount
from ..parameters import Epsilon as Epsilon
from ..parameters import Interval as Interval
from ..parameters import Parameter as Parameter
from ..parameters import Positive as Positive
from ..parameters import Weight as Weight
from ..parameters import parameters_of

Level: TypeAlias = Literal["turn", "token"]
Scope: TypeAlias = Literal["group", "batch"]
Baseline: TypeAlias = Literal["group", "batch", "critic", "memory"]
Needs: TypeAlias = Callable[[Mapping[str, Any]], tuple[str, ...]]
CreditFunction = TypeVar("CreditFunction", bound=Callable[..., Tensor])
Singleton: TypeAlias = Literal["zero", "raw"]


class CreditError(ValueError):
    """A credit scheme is asked for something that it cannot do; the subclasses say what."""


class UnknownCredit(CreditError, LookupError):
    """No credit scheme is registered under this name."""

    def __init__(self, name: str, known: Collection[str]):
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        others = sorted(set(known) - set(near))
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"no credit scheme is registered as {name!r}.{hint} Known: {', '.join([*near, *others])}."
        )


class UnknownParameter(CreditError, TypeError):
    """A credit scheme has no parameter of this name."""

    def __init__(self, scheme: str, name: str, known: Collection[str]):
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        others = [other for other in known if other not in near]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join([*near, *others]) or "none"
        super().__init__(f"credit scheme {scheme!r} has no parameter {name!r}.{hint} It has: {listed}.")


class BadParameter(CreditError):
    """A parameter of a credit scheme has a value outside what it allows."""

    def __init__(self, scheme: str, name: str, value: object, allowed: str):
        super().__init__(f"{name} of credit scheme {scheme!r} is {value!r}; allowed: {allowed}.")


class MissingInput(CreditError):
    """A credit scheme needs something that the run or the batch does not have."""

    def __init__(self, scheme: str, need: str, how: str | None = None):
        super().__init__(f"credit scheme {scheme!r} needs {need}, which is missing: {how or remedy(need)}")


class CreditExists(CreditError):
    """Two credit schemes would share a name."""

    def __init__(self, name: str):
        super().__init__(
            f"a credit scheme is already registered as {name!r}; register yours under another name."
        )


class Memory(Protocol):
    """What a scheme remembers between batches, held by the trainer: the scheme itself stays pure."""

    gives: ClassVar[frozenset[str]]
    """What `attach` adds to a batch, as in a scheme's `needs`."""

    def attach(self, batch: TurnBatch) -> TurnBatch:
        """The batch with what is remembered so far in its `extra`; to be called before `compute`."""

    def update(self, batch: TurnBatch) -> None:
        """Take the batch in; to be called after `compute`."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, as plain Python values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""


@dataclass(frozen=True)
class CreditSpec:
    """What is known of a registered scheme.

    Args:
        name: the name in the configuration.
        function: the pure function.
        needs: fields of `TurnBatch` that it reads whatever its parameters are; "extra.spa" is the source "spa".
        needs_for: further needs that depend on the parameters.
        level: "turn" gives [B, K], "token" gives [R, L].
        scope: whether anything outside its group can change the advantage of a trajectory.
        baseline: what a trajectory is compared with. Where that is its "group", a group of one gets 0.
        shift_invariant: whether a constant added to every outcome of a group, paid in the last turn, changes nothing
            (with the default parameters, but gamma 1).
        memory: builds what the scheme remembers between batches; None for most.
        targets: what the critic should have said, for schemes that read one: a function of the batch and of those of
            the parameters that it names, to the shape of the advantage.
        params: its parameters by name.
    """

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    needs_for: Needs | None
    level: Level
    scope: Scope
    baseline: Baseline
    shift_invariant: bool
    memory: type[Memory] | None
    targets: Callable[..., Tensor] | None
    params: Mapping[str, Parameter]

    @property
    def doc(self) -> str:
        """The docstring of the scheme."""
        return inspect.getdoc(self.function) or ""

    def all_needs(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What the scheme reads under these parameters; those left out take their defaults."""
        if self.needs_for is None:
            return self.needs
        full = {name: parameter.default for name, parameter in self.params.items()} | dict(params)
        return (*self.needs, *self.needs_for(full))


_SCHEMES: dict[str, CreditSpec] = {}


def register_credit(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    needs_for: Needs | None = None,
    level: Level = "turn",
    scope: Scope = "group",
    baseline: Baseline = "group",
    shift_invariant: bool = False,
    memory: type[Memory] | None = None,
    targets: Callable[..., Tensor] | None = None,
) -> Callable[[CreditFunction], CreditFunction]:
    """Register a credit function under a name; the arguments are those of `CreditSpec`.

    The function takes a `TurnBatch` and keyword-only parameters, each with a default and one of the annotations float,
    int, bool, str, Literal[...], or Annotated[float, Interval(low, high)], possibly `| None`.

    Raises:
        CreditExists: the name is taken.
        TypeError: a parameter cannot be read as configuration.
    """

    def register(function: CreditFunction) -> CreditFunction:
        if name in _SCHEMES:
            raise CreditExists(name)
        found = parameters_of(function) | (parameters_of(memory.__init__) if memory else {})
        params = MappingProxyType(found)
        _SCHEMES[name] = CreditSpec(
            name, function, needs, needs_for, level, scope, baseline, shift_invariant, memory, targets, params
        )  # fmt: skip
        return function

    return register


def credit_schemes() -> tuple[str, ...]:
    """The names of the registered schemes, sorted."""
    return tuple(sorted(_SCHEMES))


def spec(name: str) -> CreditSpec:
    """What is known of a scheme. Raises `UnknownCredit`, naming the nearest names first."""
    if name not in _SCHEMES:
        raise UnknownCredit(name, _SCHEMES)
    return _SCHEMES[name]


def check(name: str, params: Mapping[str, Any], available: Collection[str] | None = None) -> CreditSpec:
    """Check a configured scheme before anything runs, and give its spec.

    Args:
        name: the scheme.
        params: the parameters that are not left at their defaults.
        available: what the run will put into its batches ("state", "values", "extra.spa", ...); None skips that check.

    Raises:
        UnknownCredit, UnknownParameter, BadParameter: the configuration is wrong.
        MissingInput: the scheme reads something that `available` lacks.
    """
    scheme = spec(name)
    for key, value in params.items():
        if key not in scheme.params:
            raise UnknownParameter(name, key, scheme.params)
        if not scheme.params[key].allows(value):
            raise BadParameter(name, key, value, scheme.params[key].allowed)
    if available is not None:
        remembered = scheme.memory.gives if scheme.memory is not None else frozenset()
        for need in scheme.all_needs(params):
            if need not in available and need not in remembered:
                raise MissingInput(name, need)
    return scheme


def memory(name: str, **params: Any) -> Memory | None:
    """What the scheme remembers between batches, built from the same parameters as `compute`; None if nothing."""
    scheme = check(name, params)
    if scheme.memory is None:
        return None
    return scheme.memory(**_wanted(scheme.memory, params))


def _wanted(function: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    names = inspect.signature(function).parameters
    return {key: value for key, value in params.items() if key in names}


@torch.no_grad()
def compute(name: str, batch: TurnBatch, **params: Any) -> Tensor:
    """The advantage of every turn (or token) of a batch under a registered scheme.

    Invalid trajectories enter no statistic. The arithmetic on turns is done in float64; the result has the type of
    `batch.rewards`, float32 at least, on its device.

    Args:
        name: a name of `credit_schemes()`.
        batch: the trajectories.
        params: parameters of the scheme that are not left at their defaults; see `spec(name).params`.

    Returns:
        [B, K], or [R, L] for schemes of level "token"; 0 in padding, on tokens that the agent did not sample, and for
        invalid trajectories; finite everywhere; detached.

    Raises:
        UnknownCredit, UnknownParameter, BadParameter: there is no such scheme or parameter, or not with this value.
        MissingInput: the batch lacks something that the scheme reads.

    Example:
        >>> batch = TurnBatch.from_lists(rewards=[[0.0, 1.0], [0.0]], group=[0, 0])
        >>> compute("rloo", batch).tolist()
        [[1.0, 1.0], [-1.0, 0.0]]
    """
    scheme = check(name, params)
    for need in scheme.all_needs(params):
        if not batch.has(need):
            raise MissingInput(name, need)
    if scheme.level == "token":
        if batch.turn_of_token is None:
            raise MissingInput(name, "turn_of_token")
        assert batch.action_mask is not None
    cells = batch.live if scheme.level == "turn" else _live_tokens(batch)
    dtype = batch.rewards.dtype if batch.rewards.dtype == torch.float64 else torch.float32
    if not bool(batch.valid.any()):
        return torch.zeros(cells.shape, dtype=dtype, device=cells.device)
    result = scheme.function(_prepared(batch), **_wanted(scheme.function, params))
    return _restored(result, batch, cells, scheme, dtype)


@torch.no_grad()
def critic_targets(name: str, batch: TurnBatch, **params: Any) -> Tensor:
    """What the critic should have said, under the same parameters as `compute`.

    Returns:
        [B, K] for the state before each turn, or [R, L] at each sampled token for schemes of level "token"; 0 in
        padding and for invalid trajectories.

    Raises:
        MissingInput: the scheme reads no critic, or the batch lacks something that it reads.
    """
    scheme = check(name, params)
    if scheme.targets is None:
        raise MissingInput(
            name, "targets", "it does not train a critic; register the scheme with `targets=`."
        )
    cells = batch.live if scheme.level == "turn" else _live_tokens(batch)
    if not bool(batch.valid.any()):
        return torch.zeros(cells.shape, device=cells.device)
    result = scheme.targets(_prepared(batch), **_wanted(scheme.targets, params))
    return _restored(result, batch, cells, scheme, torch.float32)


def _live_tokens(batch: TurnBatch) -> Tensor:
    assert batch.action_mask is not None and batch.row_to_trajectory is not None
    if bool(batch.valid.all()):
        return batch.action_mask
    return batch.action_mask & batch.valid[batch.row_to_trajectory, None]


def _prepared(batch: TurnBatch) -> TurnBatch:
    """The valid trajectories, in float64, with zeros in padding: what a scheme is promised."""
    if not bool(batch.valid.all()):
        batch = batch.take(batch.valid.nonzero()[:, 0])
    padding = ~batch.turn_mask

    def clean(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.double().masked_fill(padding, 0.0)

    return batch.unchecked(
        rewards=clean(batch.rewards),
        outcome=batch.outcome.double(),
        entropy=clean(batch.entropy),
        values=clean(batch.values),
        last_value=None if batch.last_value is None else batch.last_value.double(),
        extra=MappingProxyType({name: clean(value) for name, value in batch.extra.items()}),
    )


def _restored(
    result: Tensor, batch: TurnBatch, cells: Tensor, scheme: CreditSpec, dtype: torch.dtype
) -> Tensor:
    """The scheme's result in the shape and type that the caller expects, checked and with exact zeros outside."""
    if not bool(batch.valid.all()):
        chosen = batch.valid
        if scheme.level == "token":
            assert batch.row_to_trajectory is not None
            chosen = batch.valid[batch.row_to_trajectory]
        full = result.new_zeros(cells.shape)
        full[chosen] = result
        result = full
    assert result.shape == cells.shape, (
        f"credit scheme {scheme.name!r} returned the shape {list(result.shape)}; it must return {list(cells.shape)}"
    )
    result = torch.where(cells, result.to(dtype), 0.0)
    # The two ends tell as much as a look at each number, in a tenth of the time.
    finite = result.numel() == 0 or bool(torch.stack(result.aminmax()).isfinite().all())
    assert finite, f"credit scheme {scheme.name!r} returned a number that is not finite"
    return result


def remedy(need: str) -> str:
    """How a run comes by an input that it lacks."""
    if need.startswith("extra."):
        return (
            f"add the reward source {need.removeprefix('extra.')!r}, or put one number per turn into `extra`."
        )
    return {
        "state": "give `state` keys; every environment reports one per turn as `state_key`.",
        "action": "give `action` keys, such as the text of each turn's action.",
        "entropy": "record the rollout policy's mean token entropy of each turn.",
        "values": "train a critic, which gives the value of the state before each turn.",
        "last_value": "give the critic's value of the state after the last turn of truncated trajectories.",
        "role": "give the player of each trajectory as `role`; only self-play runs have one.",
        "observation": "give the observation text of each turn.",
        "turn_of_token": "give the token side of the batch: action_mask, turn_of_token and row_to_trajectory.",
        "token_values": "train a critic and give its value at each token.",
        "token_rewards": "add the reward source 'implicit_prm', which pays tokens, or put one number per token there.",
    }.get(need, f"give `{need}` when the batch is built.")
