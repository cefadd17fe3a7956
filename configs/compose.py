"""From the words of a command line to a checked configuration: Hydra's groups, then the typed schema.

An override is `group=member` (a file of that folder, or a registered name) or `key=value`. Hydra picks the files; the
schema alone says which keys there are and what they may be, so that every mistake is told in one way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from .schema import AuditConfig, EvalConfig, EvalRewardsConfig, PanelSection, SuiteFile, TrainConfig

Config = TypeVar("Config", TrainConfig, EvalConfig, AuditConfig, EvalRewardsConfig)

FOLDER = Path(__file__).parent
_FILES = {TrainConfig: "train", EvalConfig: "eval", AuditConfig: "audit", EvalRewardsConfig: "eval_rewards"}
_GENERIC = "generic"
_NAMES = {"env": "id", "credit": "name"}
"""The key that `generic.yaml` of a group leaves open for a registered name."""
_MAY_CHANGE: dict[type[BaseModel], tuple[str, ...]] = {
    TrainConfig: ("resume", "trainer.steps", "trainer.nodes", "trainer.ranks_per_node"),
    EvalConfig: ("resume", "out", "concurrency", "timeout", "max_failure_share", "prices", "retry_failed"),
}
"""Keys, and sections, that another call on the same folder may have otherwise."""


class ConfigError(ValueError):
    """Raised when an override or a configuration file is wrong; one line per mistake."""


def compose(
    schema: type[Config],
    overrides: Sequence[str],
    *,
    registered: Mapping[str, Callable[[], Collection[str]]],
    sections: Mapping[str, Any] | None = None,
) -> Config:
    """Compose the configuration of a command.

    With `resume=RUN` the configuration is that of `RUN/config.yaml`; only how the run goes on may differ from it, such as
    `trainer.steps` or `concurrency`, and nothing that is learned or measured.

    Args:
        schema: the configuration of the command.
        overrides: as on the command line, `credit=rloo` or `trainer.lr=1e-4`; the later one wins.
        registered: by group (`env`, `credit`), gives the names that are known beside the files. Only called for a name
            that is not a file.
        sections: by group, what stands in place of the group's default where the overrides choose no member.

    Raises:
        ConfigError: an override cannot be read, names an unknown key, group member or registered name, or has a value
            of the wrong type or range; or `resume` is not a run folder, or would change what is trained.
    """
    parsed = [_parse(text) for text in overrides]
    groups = _groups(_FILES[schema])
    chosen: dict[str, list[str]] = {}
    values: list[tuple[str, Any]] = []
    for override in parsed:
        key = override.key_or_group
        if key in groups:
            optional = groups[key] is None
            chosen[key] = _choose(key, override.value(), registered, optional)
        else:
            values.append((key, override.value()))
    resume = dict(values).get("resume")
    saved = None if resume is None else _saved(schema, Path(str(resume)))
    try:
        config = _with_hydra(_FILES[schema], [o for options in chosen.values() for o in options])
        if saved is not None:
            config = OmegaConf.create(
                {**saved.model_dump(), **{group: config[group] for group in chosen if group in config}}
            )
        elif sections is not None:
            for group in sections.keys() - chosen.keys():
                config[group] = sections[group]
        for key, value in values:
            OmegaConf.update(config, key, value, force_add=True)
        data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} must be given: add {error.full_key}=VALUE") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).strip().splitlines()[0]) from error
    checked = validate(schema, data)
    if saved is not None:
        refuse_changes(saved, checked, f"resume={resume}")
    return checked


def names_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The keys and groups that overrides name, each with what it is set to.

    Raises:
        ConfigError: an override cannot be read.
    """
    return {override.key_or_group: override.value() for override in map(_parse, overrides)}


def suite(name: str) -> list[PanelSection]:
    """The panels of a suite: a name in configs/suite, or the path of a YAML file.

    Raises:
        ConfigError: there is no such suite, or its file is wrong.
    """
    shipped = sorted(path.stem for path in (FOLDER / "suite").glob("*.yaml"))
    path = FOLDER / "suite" / f"{name}.yaml" if name in shipped else Path(name)
    try:
        data = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no suite {name!r}.{_nearest(name, shipped)} Known: {', '.join(shipped)}; or give the path of a"
            " YAML file"
        ) from None
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"suite {path} cannot be read: {error}") from error
    try:
        return SuiteFile.model_validate(data, strict=True).panels
    except ValidationError as error:
        raise ConfigError(
            "\n".join(
                f"{path}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}"
                for e in error.errors(include_url=False)
            )
        ) from None


def validate(schema: type[Config], data: Any) -> Config:
    """Check plain data against the schema.

    Raises:
        ConfigError: one line per unknown key or wrong value.
    """
    try:
        return schema.model_validate(data, strict=True)
    except ValidationError as error:
        lines = [
            _explain(schema, e["loc"], e["type"], e["msg"], e["input"])
            for e in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from None


def members(group: str) -> list[str]:
    """The files of a group, by name."""
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml") if path.stem != _GENERIC)


def _groups(name: str) -> dict[str, str | None]:
    """The groups of a command, each with its default member."""
    defaults = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))["defaults"]  # type: ignore[call-overload, index]
    return {group: member for entry in defaults if isinstance(entry, dict) for group, member in entry.items()}


def _parse(text: str) -> Override:
    """One override; `+key=value` is the same as `key=value`, since the schema decides which keys there are."""
    try:
        override = OverridesParser.create().parse_override(text.lstrip("+"))
    except HydraException as error:
        why = str(error).splitlines()[0]
        raise ConfigError(
            f"cannot read {text!r} ({why}); write key=value, and put a value with special characters in quotes:"
            f""" 'key="a value"'"""
        ) from None
    if (
        not override.key_or_group
        or override.is_delete()
        or override.is_sweep_override()
        or override.package is not None
    ):
        raise ConfigError(f"{text!r} is not key=value with one value; nothing else is taken here")
    return override


def _choose(
    group: str, value: Any, registered: Mapping[str, Callable[[], Collection[str]]], optional: bool
) -> list[str]:
    """The overrides that make Hydra take this member of a group."""
    files = members(group)
    if value in files:
        return [f"{group}={value}"]
    if value is None and optional:
        return []
    if not isinstance(value, str):
        raise ConfigError(
            f"{group}={value!r} is wrong: {group} is a group and takes one name; its keys are {group}.KEY"
        )
    names = sorted(registered[group]()) if group in registered else []
    # A name with a colon is of a library that is named by what stands before it, which alone is registered.
    if value in names or (":" in value and f"{value.partition(':')[0]}:" in names):
        return [f"{group}={_GENERIC}", f'{group}.{_NAMES[group]}="{value}"']
    known = list(dict.fromkeys([*files, *names]))
    raise ConfigError(f"there is no {group} {value!r}.{_nearest(value, known)} Known: {', '.join(known)}.")


def _with_hydra(name: str, overrides: list[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(FOLDER), version_base="1.3"):
        config = hydra.compose(name, overrides)
    OmegaConf.set_struct(config, False)
    return config


def _saved(schema: type[Config], run: Path) -> Config:
    path = run / "config.yaml"
    try:
        return validate(schema, OmegaConf.to_container(OmegaConf.load(path)))
    except FileNotFoundError:
        raise ConfigError(f"resume={run} is not a run folder: there is no {path}") from None
    except (OSError, YAMLError, ConfigError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def saved_config(schema: type[Config], folder: Path) -> Config | None:
    """The configuration that a folder holds; None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    return _saved(schema, folder) if (folder / "config.yaml").exists() else None


def refuse_changes(before: Config, after: Config, where: str) -> None:
    """Refuse to go on under another configuration.

    Raises:
        ConfigError: one line for every key that differs, and what may.
    """
    may = _MAY_CHANGE[type(before)]
    lines = [
        f"{key}={new!r} does not go with {where}: that run has {key}={old!r}"
        for key, old, new in _differences(before.model_dump(), after.model_dump())
        if not any(key == name or key.startswith(f"{name}.") for name in may)
    ]
    if lines:
        allowed = ", ".join(name for name in may if name not in ("resume", "out"))
        raise ConfigError(
            "\n".join(lines)
            + f"\na run goes on as it began: only {allowed} may change; leave the others out, or begin another run"
        )


def _differences(before: Any, after: Any, owner: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every key that has another value, with both."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _differences(before.get(name), after.get(name), f"{owner}.{name}" if owner else name)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{owner}.{i}")
    elif before != after:
        yield owner, before, after


def _explain(
    schema: type[BaseModel], where: tuple[int | str, ...], kind: str, message: str, value: Any
) -> str:
    """One line for one mistake that pydantic found."""
    names, owner, kinds = _place(schema, where)
    key = ".".join(names)
    if kind == "union_tag_invalid" and isinstance(value, dict):
        return f"{key}.name={value.get('name')!r} is wrong: {message[0].lower()}{message[1:]}"
    if kind == "union_tag_not_found":
        return f"{key}.name must be given: add {key}.name=VALUE"
    if kind == "missing":
        return f"{key} must be given: add {key}=VALUE"
    if kind != "extra_forbidden":
        hint = ""
        if kind == "string_type" and value is not None:
            hint = f"""; to make it a text write '{key}="{value}"'"""
        elif kind == "list_type":
            hint = f"; write '{key}=[{value}]'"
        return f"{key}={value!r} is wrong: {message[0].lower()}{message[1:]}{hint}"
    around, leaf = ".".join(names[:-1]), names[-1]
    keys = dict.fromkeys(_keys(schema))
    own = {f"{around}.{name}" if around else name: f.annotation for name, f in owner.model_fields.items()}
    free = [k for k, annotation in own.items() if around and get_origin(annotation) is dict]
    same = [k for k in keys if k.endswith(f".{leaf}")]
    begins = [k for k in own if key.startswith(k)]
    elsewhere = [kind for kind, section in kinds.items() if leaf in section.model_fields]
    if elsewhere:
        return (
            f"unknown key {key!r}: it is a key of {' and of '.join(f'{around}={kind}' for kind in elsewhere)}"
        )
    near = (
        _nearest(key, own, 0.75)
        or (_said(f"{free[0]}.{leaf}") if free else "")
        or _said(*same, *begins)
        or _nearest(key, keys, 0.5)
    )
    allowed = ", ".join(k.rsplit(".", 1)[-1] for k in own)
    return f"unknown key {key!r}.{near} Keys{f' of {around}' if around else ''}: {allowed}."


def _place(
    schema: type[BaseModel], where: tuple[int | str, ...]
) -> tuple[list[str], type[BaseModel], dict[str, type[BaseModel]]]:
    """The names of a key without the tags that pydantic puts behind a section of several kinds.

    Also the section that the key is in, and the kinds that this section might have been.
    """
    names: list[str] = []
    owner, others = schema, {}  # type: type[BaseModel], dict[str, type[BaseModel]]
    below: list[type[BaseModel]] = []
    kinds: dict[str, type[BaseModel]] = {}
    for part in map(str, where):
        if len(below) > 1 and part in kinds:
            below = [kinds[part]]
            continue
        if len(below) == 1:
            owner, others = below[0], kinds
        names.append(part)
        field = owner.model_fields.get(part)
        below = [] if field is None else _sections(field.annotation)
        kinds = (
            {get_args(kind.model_fields["name"].annotation)[0]: kind for kind in below} if below[1:] else {}
        )
    return names, owner, others


def _keys(
    schema: type[BaseModel], around: str = "", above: tuple[type[BaseModel], ...] = ()
) -> Iterator[str]:
    """Every key of a schema, sections too; a section that may hold another of its kind is gone through once."""
    for name, field in schema.model_fields.items():
        key = f"{around}.{name}" if around else name
        yield key
        for section in _sections(field.annotation):
            if section not in above:
                yield from _keys(section, key, (*above, section))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _said(*names: str) -> str:
    return f" Did you mean {names[0]!r}?" if names else ""


def _nearest(name: str, known: Collection[str], cutoff: float = 0.5) -> str:
    by_lower = {k.lower(): k for k in known}
    return _said(*(by_lower[k] for k in get_close_matches(name.lower(), list(by_lower), n=1, cutoff=cutoff)))
