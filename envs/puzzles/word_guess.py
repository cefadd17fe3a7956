"""`WordGuess-v1`: find a hidden word from what is right about each guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import log2
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core import Outcome
from ..errors import InvalidParameter
from ..tasks import ListedTasks, Task, TaskSet, split_of
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_WORDS = {"easy": 60, "medium": 400, "hard": 2000}


class Hidden(NamedTuple):
    """A hidden word of a list; `level` names a generated list."""

    level: str
    word: str


class WordGuess(Puzzle[Hidden]):
    """Find a hidden word; after each guess you learn which letters are right.

    Observation: first the length of the word and, for a generated list of at most 60 words, the words; then for each guess
        one sign a letter: `+` right letter in the right place, `?` the letter stands elsewhere, `-` the letter does not
        stand there (once more). Each letter of the hidden word counts once.
    Tools: `guess(word)`. A word that is not of the list is an invalid call, which costs the turn.
    Reward: 1 for the word, else 0. With `reward="step"` the change of a potential is added: the share of the bits of the
        word that the answers have revealed, log2(all words / words left) / log2(all words).
    Terminated: the word was guessed (success). Truncated: `max_turns`.
    Levels: 60, 400 and 2,000 words of two syllables, the same for all episodes; 8 turns each.
    Words: with `words`, a text file of one word a line, its words are the list: all of one length, letters only, in small
        letters. The level is then not used, and a word's split follows from the word.
    State key: the word and the words that the answers leave. Expert: the first word of the list that agrees with all
        answers.
    Source: Wordle (J. Wardle, 2021).
    """

    words: Path | None = None

    turns: ClassVar[Mapping[str, int]] = {"easy": 8, "medium": 8, "hard": 8}
    rules = (
        "A word is hidden. For each guess you see a sign for each letter: + right place, ? it stands elsewhere, - it does not"
        " stand in the word."
    )

    def load_tasks(self) -> TaskSet:
        """Seeds with levels, or the words of the file."""
        if self.words is None:
            return super().load_tasks()
        if not self.words.is_file():
            raise InvalidParameter(
                f"words={str(self.words)!r} is not a file; name a text file of one word a line"
            )
        self.own = _read((self.words, self.words.stat().st_mtime_ns))
        return ListedTasks([Task(w, split_of(w), data={"word": w}, reference=(w,)) for w in self.own.words])

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Hidden:
        return Hidden(level, draws.pick(_generated(level).words))

    @classmethod
    def solution(cls, instance: Hidden) -> str:
        """The word."""
        return instance.word

    @classmethod
    def _holds(cls, instance: Hidden, solution: Any) -> bool:
        """Whether this is the word."""
        return bool(solution == instance.word)

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Hide the task's word."""
        if "word" not in task.data:
            return super().start(task, rng)
        self.instance = Hidden("", task.data["word"])
        return self.begin(self.instance)

    def begin(self, instance: Hidden) -> str:
        """Say how long the word is, and which words there are where they are few."""
        words = self.vocabulary.words
        self.left = np.ones(len(words), dtype=bool)
        self.count = len(words)
        said = f"The word has {len(instance.word)} letters and is one of {len(words)}"
        return f"{said}: {' '.join(words)}" if len(words) <= _WORDS["easy"] else f"{said}."

    @property
    def vocabulary(self) -> WordList:
        """The words that may be guessed."""
        return _generated(self.instance.level) if self.words is None else self.own

    @tool
    def guess(self, word: str) -> Outcome:
        """Guess the word.

        Args:
            word: of the list.
        """
        word = word.strip().lower()
        if word not in self.vocabulary.numbers:
            return Outcome(f"{word[:20]!r} is not one of the {len(self.left)} words.", invalid=True)
        answers = self.vocabulary.answers(word)
        answer = answers[self.vocabulary.numbers[self.instance.word]]
        self.left &= answers == answer
        self.count = int(np.count_nonzero(self.left))
        if word == self.instance.word:
            return Outcome("That is the word.", reward=1.0, success=True)
        return Outcome(f"{word} {_signs(int(answer), len(word))}")

    def potential(self) -> float:
        """Share of the word's bits that are known, in [0, 1]."""
        return log2(len(self.left) / self.count) / log2(len(self.left))

    def state_key(self) -> Hashable:
        """The word and the words that are left."""
        return self.instance, np.packbits(self.left).tobytes()

    def reference(self) -> list[str]:
        """The word."""
        return [self.instance.word]

    def legal(self) -> tuple[Call, ...]:
        """Every word of the list."""
        return self.vocabulary.calls

    def expert(self) -> Call:
        """The first word that agrees with all answers."""
        return self.vocabulary.calls[int(self.left.argmax())]


class WordList:
    """Words of one length, and what each is answered."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.calls = tuple(Call("guess", {"word": word}) for word in self.words)
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self._letters = np.array([[ord(letter) for letter in word] for word in self.words], dtype=np.uint32)
        self._answers: dict[str, npt.NDArray[np.int64]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> WordList:
        return self  # it never changes: snapshots share it

    def answers(self, guess: str) -> npt.NDArray[np.int64]:
        """What a guess is answered for every hidden word: digits of base 3, the first letter first; 2 `+`, 1 `?`, 0 `-`."""
        if guess not in self._answers:
            letters = self._letters
            asked = letters[self.numbers[guess]]
            right = letters == asked
            answer = np.where(right, 2, 0)
            for letter in np.unique(asked):
                # Letters of the hidden words that no right place has used up; misplaced ones take them from the left.
                free = ((letters == letter) & ~right).sum(axis=1)
                for place in np.flatnonzero(asked == letter):
                    elsewhere = ~right[:, place] & (free > 0)
                    answer[elsewhere, place] = 1
                    free -= elsewhere
            self._answers[guess] = answer @ 3 ** np.arange(len(guess))[::-1]
        return self._answers[guess]


def _signs(answer: int, length: int) -> str:
    return "".join("-?+"[answer // 3**place % 3] for place in reversed(range(length)))


@lru_cache
def _generated(level: str) -> WordList:
    """Pronounceable words, drawn once and for all."""
    consonants, vowels = "bdfgklmnprst", "aeiou"
    every = ["".join(word) for word in product(consonants, vowels, consonants, vowels)]
    return WordList(sorted(Draws(0).shuffled(every)[: _WORDS[level]]))


@lru_cache(maxsize=4)
def _read(stamped: tuple[Path, int]) -> WordList:
    """The words of a file; its time of change stands in the key, so that a changed file is read again."""
    file, _ = stamped
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{file} is not a text file: {error}") from None
    words = [line.strip() for line in lines if line.strip()]
    for number, word in enumerate(words, 1):
        if not (word.isalpha() and word == word.lower() and len(word) == len(words[0])):
            raise InvalidParameter(
                f"{file}, word {number}: {word[:40]!r} is not a word of {len(words[0])} small letters, as the first is"
            )
    twice = [word for word, count in Counter(words).items() if count > 1]
    if twice or len(words) < 2:
        why = f"has the word {twice[0]!r} twice" if twice else "holds no two words"
        raise InvalidParameter(f"{file} {why}; a list has at least two words, each once")
    return WordList(words)
