"""`Search-v1`: answer a question from the documents of a corpus, which have to be found first."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..cache import content_key
from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter
from ..tasks import Task, TaskSet
from ..tools import Call, tool
from ..trajectory import Trajectory
from . import worlds
from .answers import exact_match, f1, normalise
from .library import Document, Library, Question, library, same_title
from .loaders import Dataset, InvalidData, question_files, read_corpus, read_questions
from .renaming import Renaming
from .retrieval import Retriever

_MOST_RESULTS = 20
_LONGEST_DOCUMENT = 20_000  # characters
_LONGEST_ECHO = 200
_RANDOM_TOOLS = ("search", "search", "search", "search", "open", "answer")
_NAME = re.compile(
    r"(?<=[^.\n] )\"?([A-Z][^\W_]+(?:[ -][A-Z][^\W_]+)*)"
)  # words with a capital inside a sentence

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _used(trajectory: Trajectory, tool: str) -> bool:
    return any(turn.tool == tool and not turn.invalid for turn in trajectory.turns)


def _found(trajectory: Trajectory) -> bool | None:
    """Whether a search or a document showed a supporting one, by the reward for it; None where none was paid for that."""
    kwargs = trajectory.env_kwargs
    if kwargs.get("reward") == "outcome" or kwargs.get("found_reward") == 0.0:
        return None
    return any(turn.reward > 0 for turn in trajectory.turns[:-1] if turn.tool in ("search", "open"))


class Search(TurnEnv):
    """Answer a question with the documents of a corpus; most questions need several, one found through another.

    Observation: first the question. A search gives a line for each document it found, `[id] title: text`, cut after
        `snippet` words; an opened document is shown whole, up to 20,000 characters.
    Tools: `search(query, k)` finds documents, `open(document)` shows one by its id or title, `answer(text)` ends the
        episode. With `judging=True` also `judge(useful)`, which says whether the last search brought anything of use.
    Reward: the F1 of the answer, when it is given. With `reward="step"` also, each with its own switch and under its own
        name in `info["rewards"]`: `found`, the change of the potential `found_reward` x share of the supporting documents
        that were found; `repeat`, minus `repeat_penalty` for a query that was made before; `format`, minus
        `format_penalty` for an invalid action; `judge`, the `judge_rewards` of ReSeek.
    Terminated: an answer was given; success is an exact match with an accepted answer, score the best F1. Truncated:
        `max_turns` (12 as registered), score 0.
    Task: `dataset="world"`, questions of `hops` relations about a fictional world of `documents` documents, or a published
        set from the user's files; `rename=True` gives its names other names.
    Reference: the accepted answers.
    Echo: where an observation repeats what the agent wrote, `info["echo"]` has (start, end) of it, else None.
    State key: the task, the documents that were shown and how far, and the queries where repeating one costs. Expert:
        looks for the supporting documents in order, opens those that were cut, and answers; it knows them.
    Source: tools and turns as in Search-R1 (Jin et al., arXiv 2503.09516); JUDGE of ReSeek (arXiv 2510.00568).
    """

    dataset: Literal["world"] | Dataset = "world"
    documents: Annotated[int, Field(ge=worlds.FEWEST_DOCUMENTS)] = 1000
    hops: tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1, le=4)]] = (1, 4)
    style: worlds.Style = "encyclopedia"
    world_seed: Annotated[int, Field(ge=0)] = 0
    questions: Path | None = None
    corpus: Path | None = None
    rename: bool = False
    retriever: Literal["bm25", "dense", "remote"] = "bm25"
    encoder: str = ""
    query_prompt: str = ""
    document_prompt: str = ""
    url: str = ""
    timeout: Annotated[float, Field(gt=0.0)] = 10.0
    results: Annotated[int, Field(ge=1, le=_MOST_RESULTS)] = 3
    snippet: Annotated[int, Field(ge=1)] = 32
    found_reward: Annotated[float, Field(ge=0.0)] = 0.5
    repeat_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    format_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    judging: bool = False
    judge_rewards: tuple[float, float, float] = (0.3, -0.6, -0.3)

    stages = {  # noqa: RUF012  # a ClassVar of TurnEnv
        "searched": lambda t: _used(t, "search"),
        "found": _found,
        "answered": lambda t: _used(t, "answer"),
        "right": lambda t: t.success,
    }
    rules = (
        "Answer the question with the documents of a corpus. Search for them, open those that were cut off, and follow"
        " the names they give. Answer with a name, a date, a number, yes or no, and nothing else."
    )

    def load_tasks(self) -> TaskSet:
        """The questions, and the documents and the retriever that go with them."""
        self._library = self._opened_library()
        self._retriever = self._made_retriever()
        self.blocking = self._retriever.waits  # type: ignore[misc]  # it depends on the retriever
        if not self.judging:
            self.tools = {name: spec for name, spec in self.tools.items() if name != "judge"}  # type: ignore[misc]
        self._rewards: dict[str, float] = {}
        self._echo: tuple[int, int] | None = None
        return self._library.tasks

    def _opened_library(self) -> Library:
        if self.hops[0] > self.hops[1]:
            raise InvalidParameter(
                f"hops={self.hops} is wrong: it is the fewest and the most, as in hops=(1, 4)"
            )
        if self.dataset == "world":
            given = [name for name in ("questions", "corpus") if getattr(self, name) is not None]
            if given or self.rename:
                raise InvalidParameter(
                    f"{(given or ['rename'])[0]} belongs to a published set; name it, as in dataset='hotpotqa'"
                )
            if self.style == "short" and self.documents > worlds.MOST_SHORT:
                raise InvalidParameter(
                    f"documents={self.documents} is too many for style='short', which has names for {worlds.MOST_SHORT}"
                )
            return _world(self.documents, self.hops, self.style, self.world_seed)
        if self.questions is None:
            raise InvalidParameter(f"dataset={self.dataset!r} is read from your file: give questions=PATH")
        if self.rename and self.retriever == "remote":
            raise InvalidParameter(
                "rename=True cannot rename what a remote retriever holds; use bm25 or dense"
            )
        return _published(self.dataset, self.questions, self.corpus, self.rename)

    def _made_retriever(self) -> Retriever:
        if self.retriever == "remote":
            try:
                from .remote_retriever import RemoteRetriever
            except ModuleNotFoundError as error:
                raise InvalidParameter(
                    f"retriever='remote' needs {error.name}: pip install 'turnwise[remote]'"
                ) from error

            if not self.url.startswith(("http://", "https://")):
                raise InvalidParameter(
                    f"retriever='remote' needs the address of a server, as in url='http://127.0.0.1:8000/retrieve'; got"
                    f" url={self.url!r}"
                )
            return RemoteRetriever(self.url, self.timeout)
        if not len(self._library):
            raise InvalidParameter(
                f"questions={str(self.questions)!r} has no passages; give corpus=PATH, or retriever='remote' and url="
            )
        if self.retriever == "dense":
            from .dense_retriever import DenseRetriever

            if not self.encoder:
                raise InvalidParameter(
                    "retriever='dense' needs the name or folder of a model, as in encoder='intfloat/e5-base-v2'"
                )
            prompts = {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}
            return DenseRetriever(self._library, self.encoder, **prompts)
        from .bm25_retriever import BM25Retriever

        return BM25Retriever(self._library)

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Ask the question."""
        support = task.data["support"]
        self._by_title = any(not identifier for identifier, _ in support)
        self.wanted: dict[str, int] = {self._name(*s): place for place, s in enumerate(support)}
        self.found: set[int] = set()  # places in the support
        self.shown: dict[str, bool] = {}  # id of each document that was shown, and whether whole
        self.queries: set[str] = set()
        self.missing: set[str] = set()  # what was to be opened and is not there
        self.received: dict[str, Document] = {}  # from a remote retriever, by id
        self.useful: bool | None = None  # whether the last search was, until it is judged
        return task.prompt

    def _name(self, identifier: str, title: str) -> str:
        """What a supporting document is known by: its id, or its title where the corpus is another."""
        return same_title(title) if self._by_title else identifier

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TurnEnv.step`; info has `rewards` by name, which sum to the reward, and `echo` in addition."""
        self._rewards, self._echo = {}, None
        observation, reward, terminated, truncated, info = super().step(action)
        if self.reward == "outcome":
            self._rewards = {"answer": reward} if reward else {}
        else:
            if info["shaping"]:
                self._rewards["found"] = info["shaping"]
            if info["invalid"] and self.format_penalty:
                self._rewards["format"] = -self.format_penalty
                reward -= self.format_penalty
        info["rewards"], info["echo"] = self._rewards, self._echo
        return observation, reward, terminated, truncated, info

    @tool
    def search(self, query: str, k: Annotated[int, Field(ge=0, le=_MOST_RESULTS)] = 0) -> Outcome:
        """Find documents.

        Args:
            query: words that the documents should hold.
            k: how many documents to show; 0 for the usual number.
        """
        asked = _brief(" ".join(query.casefold().split()))
        penalty = self._paid("repeat", -self.repeat_penalty) if asked in self.queries else 0.0
        self.queries.add(asked)
        hits = self._retriever.search(query, k or self.results)
        if not hits:
            self.useful = False
            return Outcome(self._echoing("No documents found for {}.", query), penalty)
        before = len(self.found)
        lines = []
        for document, _ in hits:
            line, whole = _entry(document, self.snippet)
            lines.append(line)
            self._show(document, whole)
        observation = "\n".join(lines)
        if self.judging:
            self.useful = len(self.found) > before or self._answered(observation)
        return Outcome(observation, penalty)

    @tool
    def open(self, document: str) -> Outcome:
        """Read a whole document.

        Args:
            document: its id, as it stands in the results, or its title.
        """
        name = document.strip()
        if name.startswith("[") and name.endswith("]"):
            name = name[1:-1].strip()
        found = self.received.get(name) or self._library.find(name)
        if found is None:
            self.missing.add(_brief(name))
            return Outcome(self._echoing("There is no document {}.", document), invalid=True)
        self._show(found, True)
        text = found.text
        if len(text) > _LONGEST_DOCUMENT:
            text = f"{text[:_LONGEST_DOCUMENT]} [cut: {len(text):,} characters]"
        return Outcome(f"[{found.id}] {found.title}\n{text}")

    @tool
    def answer(self, text: str) -> Outcome:
        """Give the answer, which ends the episode.

        Args:
            text: the answer and nothing else.
        """
        accepted = self.reference() or []
        right, score = exact_match(text, accepted), f1(text, accepted)
        return Outcome(
            "Right." if right else "Wrong.", self._paid("answer", score), success=right, score=score
        )

    @tool
    def judge(self, useful: Literal["yes", "no"]) -> Outcome:
        """Say whether the results of the last search help to answer the question.

        Args:
            useful: your judgement.
        """
        if self.useful is None:
            return Outcome("There is no search to judge: each is judged once.", invalid=True)
        match, accepted_useless, rejected_useful = self.judge_rewards
        if self.useful == (useful == "yes"):
            reward = match
        else:
            reward = rejected_useful if self.useful else accepted_useless
        self.useful = None
        return Outcome("Noted.", self._paid("judge", reward))

    def _paid(self, name: str, reward: float) -> float:
        if reward and self.reward == "step":
            self._rewards[name] = reward
        return reward

    def _show(self, document: Document, whole: bool) -> None:
        """Note that a document was shown."""
        self.shown[document.id] = whole or self.shown.get(document.id, False)
        if self._retriever.waits:
            self.received[document.id] = document
        place = self.wanted.get(same_title(document.title) if self._by_title else document.id)
        if place is not None:
            self.found.add(place)

    def _answered(self, observation: str) -> bool:
        said = f" {normalise(observation)} "
        return any(
            f" {a} " in said for a in map(normalise, self.reference() or []) if a not in ("", "yes", "no")
        )

    def _echoing(self, sentence: str, said: str) -> str:
        """A sentence that repeats what the agent wrote, letter for letter, where it is short and can be printed."""
        said = said.strip()
        if not said or len(said) > _LONGEST_ECHO or not said.isprintable():
            return sentence.format(f"that ({len(said):,} characters)")
        start = sentence.index("{") + 1
        self._echo = (start, start + len(said))
        return sentence.format(f'"{said}"')

    def potential(self) -> float:
        """`found_reward` x the share of the supporting documents that were found."""
        return self.found_reward * len(self.found) / len(self.wanted) if self.wanted else 0.0

    def state_key(self) -> Hashable:
        """A hash of the task, the documents shown, and what else the rewards of later turns depend on."""
        assert self.task is not None
        queries = sorted(self.queries) if self.repeat_penalty else []
        return _digest(
            repr((self.task.id, sorted(self.shown.items()), queries, self.useful if self.judging else None))
        )

    def expert(self) -> Call:
        """Search for the next supporting document, open it if it was cut, answer when all were read."""
        assert self.task is not None
        reference = Call("answer", {"text": (self.reference() or [""])[0]})
        if self._turn >= self.max_turns - 1:
            return reference
        support = self.task.data["support"]
        for identifier, title in support:
            if self.wanted[self._name(identifier, title)] not in self.found:
                if same_title(title) not in self.queries:
                    return Call("search", {"query": title})
                name = identifier or title
            elif not self._by_title and not self.shown[identifier]:
                name = identifier
            else:
                continue
            if name not in self.missing:
                return Call("open", {"document": name})
        if not support and not self.queries:
            return Call("search", {"query": self.task.prompt})
        return reference

    def sample_action(self, rng: np.random.Generator) -> str:
        """A random tool, mostly `search`, with a name from the question or the last observation; a random answer is a
        title of the corpus. Without a corpus here, random letters.
        """
        if not len(self._library):
            return super().sample_action(rng)
        if self.judging and rng.random() < 0.25:
            return self.write(Call("judge", {"useful": ("yes", "no")[int(rng.integers(2))]}))
        name = _RANDOM_TOOLS[int(rng.integers(len(_RANDOM_TOOLS)))]
        said = "" if self.task is None else f"{self.task.prompt}\n{self._observation}"
        names = list(dict.fromkeys(_NAME.findall(said))) if name != "answer" else []
        picked = (
            names[int(rng.integers(len(names)))]
            if names
            else self._library[int(rng.integers(len(self._library)))].title
        )
        return self.write(Call(name, {self.tools[name].parameters[0]: picked}))


def _brief(text: str) -> str:
    """What an episode remembers of a text that an agent wrote, so that none weighs 100 kB."""
    return text if len(text) <= _LONGEST_ECHO else _digest(text)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@lru_cache(maxsize=4096)
def _entry(document: Document, words: int) -> tuple[str, bool]:
    """The line of a document among results, and whether it holds the whole text."""
    said = document.text.split(maxsplit=words)
    whole = len(said) <= words
    text = " ".join(said if whole else said[:words])
    return f"[{document.id}] {document.title}: {text}{'' if whole else ' ...'}", whole


def _world(documents: int, hops: tuple[int, int], style: worlds.Style, seed: int) -> Library:
    key = content_key("world", _source(Path(worlds.__file__)), documents, *hops, style, seed)

    def fill() -> tuple[Iterable[Document], Iterable[Question]]:
        world = worlds.World(documents, hops, style, seed)
        return world.documents(), world.questions()

    return library(key, fill)


@lru_cache(maxsize=4)
def _source(module: Path) -> str:
    return content_key(module)


def _published(dataset: Dataset, questions: Path, corpus: Path | None, rename: bool) -> Library:
    files = question_files(questions)
    if corpus is not None and not corpus.is_file():
        raise InvalidData(f"corpus={str(corpus)!r}: there is no such file")
    aliases = questions.parent / "id_aliases.json" if questions.is_file() else questions / "id_aliases.json"
    files += [aliases] if dataset == "2wikimultihopqa" and aliases.is_file() else []
    read = [*files, *([] if corpus is None else [corpus])]
    stamps = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in read)
    key = content_key("published", dataset, corpus is not None, rename, _contents(stamps))

    def fill() -> tuple[Iterable[Document], Iterable[Question]]:
        asked: list[Question] = []
        documents = _collected(dataset, questions, asked) if corpus is None else read_corpus(corpus)
        if corpus is not None:
            asked = [a.question for a in read_questions(dataset, questions)]
        if not rename:
            return documents, asked
        held = list(documents)
        renaming = Renaming(held, asked)
        return map(renaming.document, held), map(renaming.question, asked)

    return library(key, fill)


def _collected(dataset: Dataset, questions: Path, asked: list[Question]) -> Iterator[Document]:
    """The passages of all questions, each once, as a corpus; the questions go into `asked` on the way."""
    ids: dict[bytes, str] = {}
    for question, paragraphs, support in read_questions(dataset, questions):
        names = []
        for paragraph in paragraphs:
            digest = hashlib.blake2b(
                repr(tuple(paragraph)).encode("utf-8", "replace"), digest_size=16
            ).digest()
            if digest not in ids:
                ids[digest] = str(len(ids) + 1)
                yield Document(ids[digest], *paragraph)
            names.append(ids[digest])
        places = tuple((names[i], paragraphs[i].title) for i in support)
        asked.append(question._replace(support=places or question.support))


@lru_cache(maxsize=16)
def _contents(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The key of some files by their bytes; the stamps only keep them from being read for every clone."""
    return content_key(*(file for file, _, _ in files), *(file.name for file, _, _ in files))
