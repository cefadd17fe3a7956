"""Published question sets and corpora in `Search-v1`, and renaming."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter, UnknownSplit
from turnwise.envs.search.answers import exact_match
from turnwise.envs.search.library import Document, Question
from turnwise.envs.search.loaders import InvalidData, read_corpus, read_questions
from turnwise.envs.search.renaming import Renaming


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def published(real_data: Path) -> Path:
    """The samples of published question sets."""
    return real_data / "search"


def write(path: Path, *records: Any, as_list: bool = False) -> Path:
    text = json.dumps(records) if as_list else "".join(json.dumps(r) + "\n" for r in records)
    path.write_text(text, encoding="utf-8")
    return path


HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "question": "Where was the author of The Mill born?",
    "answer": "Lund",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["The Mill", 0], ["Ada Berg", 1], ["The Mill", 1]],
    "context": [
        ["Ada Berg", ["Ada Berg is a poet.", " She was born in Lund."]],
        ["Oslo", ["Oslo is a city."]],
        ["The Mill", ["The Mill is a poem by Ada Berg.", " It is long."]],
    ],
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "Where was the author of The Mill born?",
    "answer": "Lund",
    "answer_aliases": ["City of Lund"],
    "answerable": True,
    "paragraphs": [
        {
            "idx": 0,
            "title": "Ada Berg",
            "paragraph_text": "Ada Berg was born in Lund.",
            "is_supporting": True,
        },
        {
            "idx": 1,
            "title": "The Mill",
            "paragraph_text": "The Mill has other authors.",
            "is_supporting": False,
        },
        {"idx": 2, "title": "The Mill", "paragraph_text": "The Mill is by Ada Berg.", "is_supporting": True},
    ],
    "question_decomposition": [
        {"id": 1, "question": "The Mill >> author", "answer": "Ada Berg", "paragraph_support_idx": 2},
        {"id": 2, "question": "#1 >> born", "answer": "Lund", "paragraph_support_idx": 0},
    ],
}


def test_the_expert_solves_the_real_sample_of_hotpotqa_with_its_own_passages(published: Path) -> None:
    env = tw.make("Search-v1", dataset="hotpotqa", questions=published / "hotpotqa_distractor.jsonl")
    assert sum(env.tasks.splits.values()) == 30
    tasks = [env.tasks.get(split, i) for split, size in env.tasks.splits.items() for i in range(size)]
    for task in tasks:
        assert len(task.data["support"]) == 2
        for identifier, title in task.data["support"]:
            assert env._library.find(identifier).title == title
    result = env.rollout(tw.agents.ExpertAgent(), episodes=30, tasks=[t.id for t in tasks])
    assert result.success_rate == 1.0
    # Reading was needed: it found every supporting passage, by searching for its title.
    assert all(sum(turn.tool != "answer" for turn in t.turns) >= 2 for t in result.trajectories)
    assert len(env._library) == 300


def test_the_passages_of_hotpotqa_are_found_by_its_questions(published: Path) -> None:
    env = tw.make(
        "Search-v1", dataset="hotpotqa", questions=published / "hotpotqa_distractor.jsonl", results=10
    )
    found = 0.0
    for split, size in env.tasks.splits.items():
        for i in range(size):
            observation, _ = env.reset(options={"task": env.tasks.get(split, i).id})
            _, _, _, _, info = env.step(env.write(tw.Call("search", {"query": observation})))
            found += info["rewards"].get("found", 0.0) / env.found_reward
    assert found / 30 > 0.7  # the share of the supporting passages that BM25 finds by the question alone


@pytest.mark.parametrize("name", ["hotpotqa", "2wiki", "musique", "bamboogle"])
def test_the_real_samples_of_questions_are_read_with_their_aliases(published: Path, name: str) -> None:
    file = published / f"{name}_questions.jsonl"
    dataset: Any = {"2wiki": "2wikimultihopqa"}.get(name, name)
    asked = [a.question for a in read_questions(dataset, file)]
    raw = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(q.text, list(q.answers)) for q in asked] == [
        (r["question"].strip(), list(dict.fromkeys(a.strip() for a in r["answer"]))) for r in raw
    ]
    assert len({q.id for q in asked}) == 20


def test_the_real_corpus_of_search_r1_is_read_and_searched(published: Path) -> None:
    documents = list(read_corpus(published / "corpus.jsonl"))
    assert [d.id for d in documents] == [str(i) for i in range(10)]
    assert documents[0].title == "Evan Morris"
    assert documents[0].text.startswith("Evan Morris Evan L. Morris (January 26, 1977")
    env = tw.make(
        "Search-v1",
        dataset="bamboogle",
        questions=published / "bamboogle_questions.jsonl",
        corpus=published / "corpus.jsonl",
        format="bracket",
    )
    env.reset(seed=0)
    assert env.step("search[lobbyist for Genentech]")[0].startswith("[0] Evan Morris: ")
    assert env.step("open[4th Airborne Corps (Soviet Union)]")[0].startswith("[9] 4th Airborne Corps")


@pytest.mark.parametrize("as_list", [True, False])
def test_the_released_form_and_the_rows_of_hugging_face_give_the_same(tmp_path: Path, as_list: bool) -> None:
    rows = {
        **HOTPOT,
        "supporting_facts": {"title": [t for t, _ in HOTPOT["supporting_facts"]], "sent_id": [0, 1, 1]},
        "context": {
            "title": [t for t, _ in HOTPOT["context"]],
            "sentences": [s for _, s in HOTPOT["context"]],
        },
    }
    (one,) = read_questions("hotpotqa", write(tmp_path / "a.json", HOTPOT, as_list=as_list))
    (other,) = read_questions("hotpotqa", write(tmp_path / "b.json", rows, as_list=as_list))
    assert one.paragraphs == other.paragraphs
    assert one.paragraphs[0] == ("Ada Berg", "Ada Berg is a poet. She was born in Lund.")
    assert one.support == other.support == [2, 0]
    assert one.question.support == (("", "The Mill"), ("", "Ada Berg"))
    assert (one.question.answers, one.question.hops, one.question.kind) == (("Lund",), 2, "bridge")


def test_aliases_of_2wikimultihopqa_stand_in_a_file_beside_it(tmp_path: Path) -> None:
    record = {**HOTPOT, "answer_id": "Q2167", "evidences": [["The Mill", "author", "Ada Berg"]]}
    file = write(tmp_path / "dev.json", record, as_list=True)
    write(tmp_path / "id_aliases.json", {"Q_id": "Q2167", "aliases": ["Lunda", "Lund"], "demonyms": []})
    (asked,) = read_questions("2wikimultihopqa", file)
    assert asked.question.answers == ("Lund", "Lunda")


def test_paragraphs_of_musique_are_known_by_their_place_not_by_their_title(tmp_path: Path) -> None:
    unanswerable = {**MUSIQUE, "id": "2hop__3_4", "answerable": False}
    file = write(tmp_path / "musique_ans_v1.0_train.jsonl", MUSIQUE, unanswerable)
    env = tw.make("Search-v1", dataset="musique", questions=file, format="bracket", judging=True)
    assert env.tasks.splits == {"train": 1}
    env.reset(seed=0)
    assert env.reference() == ["Lund", "City of Lund"]
    assert [title for _, title in env.task.data["support"]] == ["The Mill", "Ada Berg"]
    assert (
        env.step("search[other authors, 1]")[4]["rewards"] == {}
    )  # the passage of this title that tells nothing
    assert env.step("open[3]")[4]["rewards"] == {"found": 0.25}


def test_natural_questions_in_both_forms(tmp_path: Path) -> None:
    simplified = {
        "example_id": 5655493461695504401,
        "question_text": "where is the mill",
        "document_text": "<P> The mill stands in Lund , Sweden </P>",
        "annotations": [
            {"yes_no_answer": "NONE", "short_answers": [{"start_token": 5, "end_token": 6}]},
            {"yes_no_answer": "NONE", "short_answers": [{"start_token": 5, "end_token": 8}]},
        ],
    }
    no_answer = {
        **simplified,
        "example_id": 2,
        "annotations": [{"yes_no_answer": "NONE", "short_answers": []}],
    }
    file = write(tmp_path / "nq.jsonl", simplified, no_answer, {"question": "who", "answer": ["Ada", "Berg"]})
    asked = [a.question for a in read_questions("nq", file)]
    assert [(q.text, q.answers) for q in asked] == [
        ("where is the mill", ("Lund", "Lund , Sweden")),
        ("who", ("Ada", "Berg")),
    ]


def test_other_spellings_of_the_plain_fields(tmp_path: Path) -> None:
    file = write(
        tmp_path / "x.jsonl",
        {"Question": "one?", "Answer": "1"},
        {"id": "q2", "question": "two?", "golden_answers": ["2", "two"]},
        {"question": "three?", "answers": ["3"]},
    )
    assert [a.question.answers for a in read_questions("bamboogle", file)] == [("1",), ("2", "two"), ("3",)]


def test_splits_are_those_of_the_file_names_else_by_a_hash_of_the_question(tmp_path: Path) -> None:
    for name in ("hotpot_train_v1.1", "hotpot_dev_distractor_v1", "hotpot_test"):
        write(tmp_path / f"{name}.json", HOTPOT)
    env = tw.make("Search-v1", dataset="hotpotqa", questions=tmp_path)
    assert env.tasks.splits == {"train": 1, "val": 1, "test": 1}
    assert len(env._library) == 3  # each passage once
    with pytest.raises(UnknownSplit, match="Known: val"):
        tw.make("Search-v1", dataset="hotpotqa", questions=tmp_path / "hotpot_dev_distractor_v1.json")
    many = [{"question": f"what is {n}?", "answer": str(n)} for n in range(300)]
    corpus = write(tmp_path / "corpus.jsonl", {"id": 1, "title": "t", "text": "x"})
    env = tw.make("Search-v1", dataset="nq", questions=write(tmp_path / "q.jsonl", *many), corpus=corpus)
    assert sum(env.tasks.splits.values()) == 300
    assert min(env.tasks.splits.values()) > 10


BROKEN = [
    ("hotpotqa", "{", "record 1 (line 1): is not JSON"),
    ("hotpotqa", '{"question": "a", "answer": "b"}\n{"question": "c"}', "record 2: field 'answer' is missing"),
    ("hotpotqa", '[{"question": "a", "answer": "b"}, {"question": 5, "answer": "b"}]', "record 2: field 'question' is 5"),
    ("hotpotqa", '[{"question": "a", "answer": "b"} {"question"', "record 1: is followed by '{\"question\"'"),
    ("hotpotqa", '[{"question": "a", "answer": "b"},]', "record 2: is not JSON"),
    ("hotpotqa", '[{"question": "a", "answer": "b"}', "record 1: is followed by ''"),
    ("hotpotqa", "[5]", "record 1: 5 is no JSON object"),
    ("nq", '{"question": "a", "answer": []}', "record 1: field 'answer' is []"),
    ("nq", '{"question": "a", "answer": {"x": 1}}', "record 1: field 'answer' is {'x': 1}"),
    ("nq", '{"question": " ", "answer": "b"}', "record 1: field 'question' is ' '"),
    ("nq", '{"id": 1, "question": "a", "answer": "b"}\n{"id": 1, "question": "c", "answer": "b"}', "unique"),
    ("nq", '{"question_text": "a", "document_text": "b", "annotations": [{"short_answers": [{"start_token": 9}]}]}', "start_token"),
    ("hotpotqa", json.dumps({**HOTPOT, "context": [["a", "b"]]}), "field 'context'"),
    ("hotpotqa", json.dumps({**HOTPOT, "context": "x"}), "field 'context' is 'x'"),
    ("hotpotqa", json.dumps({**HOTPOT, "supporting_facts": [["Nowhere", 0]]}), "no 'Nowhere'"),
    ("musique", json.dumps({**MUSIQUE, "paragraphs": [{"title": "a"}]}), "field 'paragraphs'"),
    ("musique", json.dumps({**MUSIQUE, "question_decomposition": [{"paragraph_support_idx": 9}]}), "question_decomposition"),
    ("musique", json.dumps({**MUSIQUE, "answer_aliases": "x"}), "field 'answer_aliases' is 'x'"),
    ("bamboogle", "\ufeff", None),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "text", "said"), BROKEN)
def test_a_malformed_file_is_told_with_file_record_and_field(
    tmp_path: Path, dataset: Any, text: str, said: str | None
) -> None:
    file = tmp_path / "questions.json"
    file.write_text(text, encoding="utf-8")
    if said is None:
        assert list(read_questions(dataset, file)) == []
        return
    with pytest.raises(InvalidData, match=re.escape(said)) as error:
        list(read_questions(dataset, file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"title": "a", "text": "b"}', "record 1: field 'id' is missing"),
        ('{"id": 1, "title": "a", "text": "b"}\n{"id": "1", "title": "a", "text": "b"}', "record 2: field 'id' is '1'; it must be unique"),
        ('{"id": 1, "title": "a"}', "record 1: field 'text' is missing"),
        ('{"id": 1, "contents": 5}', "record 1: field 'contents' is 5"),
    ],
)  # fmt: skip
def test_a_malformed_corpus_is_told_with_file_record_and_field(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidData, match=re.escape(f"{file}, {said}")):
        list(read_corpus(file))


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"question": "\xff"}')
    with pytest.raises(InvalidData, match="is not UTF-8"):
        list(read_questions("nq", file))
    for path in (tmp_path / "nowhere.json", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InvalidData, match=re.escape(str(path))):
            tw.make("Search-v1", dataset="nq", questions=path)
    good = write(tmp_path / "good.jsonl", {"question": "a", "answer": "b"})
    with pytest.raises(InvalidData, match="there is no such file"):
        tw.make("Search-v1", dataset="nq", questions=good, corpus=tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"dataset": "nq"}, "give questions=PATH"),
        ({"questions": "x"}, "questions belongs to a published set"),
        ({"rename": True}, "rename belongs to a published set"),
        ({"hops": (3, 2)}, "the fewest and the most"),
        ({"hops": (0, 2)}, "greater than or equal to 1"),
        ({"documents": 10}, "greater than or equal to 200"),
        ({"documents": 50000, "style": "short"}, "too many for style='short'"),
        ({"retriever": "remote"}, "the address of a server"),
        ({"retriever": "dense"}, "the name or folder of a model"),
        ({"results": 21}, "less than or equal to 20"),
    ],
)
def test_a_wrong_parameter_says_what_to_do(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        tw.make("Search-v1", **parameters)


def test_questions_without_passages_need_a_corpus(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", *({"question": f"{n}?", "answer": "b"} for n in range(40)))
    with pytest.raises(InvalidParameter, match="give corpus=PATH"):
        tw.make("Search-v1", dataset="nq", questions=file)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", HOTPOT)
    first = tw.make("Search-v1", dataset="hotpotqa", questions=file)
    write(file, {**HOTPOT, "answer": "Oslo", "answer_2": "x"})
    second = tw.make("Search-v1", dataset="hotpotqa", questions=file)
    assert [env.tasks.get("train", 0).reference for env in (first, second)] == [("Lund",), ("Oslo",)]


# Renaming


def test_names_are_renamed_alike_in_questions_answers_titles_and_texts() -> None:
    documents = [
        Document("1", "Ada Berg", "Ada Berg (born 1901) is a poet from LUND. BERG's river is long."),
        Document("2", "River Lund", "The River Lund is in Sweden. In January it is cold."),
    ]
    question = Question(
        "q",
        "train",
        "where was ada berg born in January 1901?",
        ("Lund", "River Lund", "yes"),
        (("1", "Ada Berg"),),
    )
    renaming = Renaming(documents, [question])
    ada, berg, lund = (renaming.words[w] for w in ("ada", "berg", "lund"))
    assert renaming.document(documents[0]).title == f"{ada.capitalize()} {berg.capitalize()}"
    assert renaming.document(documents[0]).text == (
        f"{ada.capitalize()} {berg.capitalize()} (born 1901) is a poet from {lund.upper()}. {berg.upper()}'s river is long."
    )
    renamed = renaming.question(question)
    assert renamed.text == f"where was {ada} {berg} born in January 1901?"
    assert renamed.answers == (lund.capitalize(), f"River {lund.capitalize()}", "yes")
    assert renamed.support == (("1", f"{ada.capitalize()} {berg.capitalize()}"),)
    assert renaming.text("Sweden") == "Sweden"  # neither in a title nor an answer


def test_a_renamed_real_set_is_the_same_task_with_other_names(published: Path) -> None:
    file = published / "hotpotqa_distractor.jsonl"
    plain = tw.make("Search-v1", dataset="hotpotqa", questions=file)
    renamed = tw.make("Search-v1", dataset="hotpotqa", questions=file, rename=True)
    assert len(plain._library) == len(renamed._library)
    assert plain.tasks.splits == renamed.tasks.splits
    changed = held = held_before = 0
    for split, size in plain.tasks.splits.items():
        for i in range(size):
            one, other = plain.tasks.get(split, i), renamed.tasks.get(split, i)
            assert one.id == other.id
            changed += not exact_match(one.reference[0], other.reference)
            texts = [
                [e._library.find(s[0]).text for s in t.data["support"]]
                for e, t in ((plain, one), (renamed, other))
            ]
            held_before += any(one.reference[0] in text for text in texts[0])
            held += any(other.reference[0] in text for text in texts[1])
    # What the passages say is said with the new names; answers that are numbers, yes or no stay what they were.
    assert held == held_before >= 20
    assert changed >= 12
    result = renamed.rollout(tw.agents.ExpertAgent(), episodes=10, split="train")
    assert result.success_rate == 1.0


def test_renaming_is_one_to_one_and_invents_no_word_of_the_corpus(published: Path) -> None:
    asked = list(read_questions("hotpotqa", published / "hotpotqa_distractor.jsonl"))
    documents = [Document(str(i), *p) for i, p in enumerate(p for a in asked for p in a.paragraphs)]
    renaming = Renaming(documents, [a.question for a in asked])
    assert len(set(renaming.words.values())) == len(renaming.words) > 200
    present = {w.casefold() for d in documents for w in re.findall(r"[^\W\d_]+", f"{d.title} {d.text}")}
    assert not set(renaming.words.values()) & present
    assert not {"university", "film", "the", "january"} & renaming.words.keys()
    again = Renaming(documents, [a.question for a in asked])
    assert again.words == renaming.words
