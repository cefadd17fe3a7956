"""Programming languages: what a file is called, how it is compiled and run. The entries stand in `languages.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from .errors import UnknownLanguage


@dataclass(frozen=True)
class Language:
    """How programs of one language run. `{file}` and `{program}` in a command stand for paths.

    Attributes:
        name: how `Sandbox.run(language=...)` calls it.
        file: the name that the program's text is stored under.
        run: the command.
        compile: the command before it, or empty.
    """

    name: str
    file: str
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()

    def commands(self, folder: str) -> list[list[str]]:
        """The commands for a program whose text lies in `folder`: compile, where there is such a step, and run."""
        paths = {"file": f"{folder}/{self.file}", "program": f"{folder}/main"}
        return [[word.format(**paths) for word in step] for step in (self.compile, self.run) if step]


def load(path: Path) -> dict[str, Language]:
    """The languages of a YAML file, by name."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        name: Language(name, entry["file"], tuple(entry["run"]), tuple(entry.get("compile", ())))
        for name, entry in entries.items()
    }


LANGUAGES: Mapping[str, Language] = MappingProxyType(load(Path(__file__).with_name("languages.yaml")))
"""Every language that programs can be written in, by name."""


def language(name: str) -> Language:
    """The language of a name.

    Raises:
        UnknownLanguage: there is none; the message names the nearest.
    """
    if name not in LANGUAGES:
        raise UnknownLanguage(name, LANGUAGES)
    return LANGUAGES[name]
