"""The retrievers of `Search-v1`: BM25, dense, and remote over HTTP."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter
from turnwise.envs.search.bm25_retriever import BM25Retriever
from turnwise.envs.search.library import Document, Library, Question, library
from turnwise.envs.search.remote_retriever import RemoteRetriever, _client
from turnwise.envs.search.retrieval import RetrieverGarbage, RetrieverGone, RetrieverTimeout


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


DOCUMENTS = [
    Document("a", "Lund", "Lund is a city in Sweden."),
    Document("b", "Ada Berg", "Ada Berg is a poet. She was born in Lund."),
    Document("c", "Heron", "A grey bird that stands in rivers."),
    Document("d", "lund", "Also a small wood."),
    Document("e", "Ünïcødé 𐐷 🙂", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 日本語 עברית"),
]


def made(key: str = "test", documents: list[Document] = DOCUMENTS) -> Library:
    return library(key, lambda: (documents, [Question("q", "train", "who?", ("Ada Berg",))]))


# The library


def test_a_document_is_found_by_its_id_or_else_by_the_first_title() -> None:
    books = made()
    assert [books[row] for row in range(len(books))] == list(books) == DOCUMENTS
    assert [books.find(d.id) for d in DOCUMENTS] == DOCUMENTS
    assert books.find("  LUND ") == DOCUMENTS[0]
    assert books.find("Ünïcødé 𐐷 🙂") == DOCUMENTS[4]
    assert books.find("nowhere") is None
    assert books.find("") is None
    assert pickle.loads(pickle.dumps(books)) is books


def test_an_id_that_is_the_title_of_another_document_wins() -> None:
    books = made("ids", [Document("Lund", "Oslo", "x"), Document("2", "Lund", "y")])
    found = books.find("Lund")
    assert found is not None
    assert found.title == "Oslo"


def test_a_library_and_its_index_are_made_once_and_by_one_of_many_processes(cache: Path) -> None:
    code = (
        "from turnwise.envs.search.search import Search; env = Search(documents=200, style='short', format='bracket');"
        "env.reset(seed=0); print(env.step('search[Bela]')[0][:40])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(3)
    ]
    said = {p.communicate()[0] for p in processes}
    assert len(said) == 1
    assert all(p.returncode == 0 for p in processes)
    made_at = {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert made_at
    env = tw.make("Search-v1", documents=200, style="short")
    assert env._library.folder.parent == cache / "search"
    assert {p: p.stat().st_mtime_ns for p in made_at} == made_at
    other = tw.make("Search-v1", documents=200, style="short", world_seed=1)
    assert {p for p in (cache / "search").iterdir() if p.is_dir()} == {
        env._library.folder,
        other._library.folder,
    }


def test_a_thousand_environments_share_one_library_and_one_retriever_index() -> None:
    env = tw.make("Search-v1", documents=200, style="short")
    clones = [env.clone() for _ in range(1000)]
    assert {id(c._library) for c in clones} == {id(env._library)}
    assert {id(c._retriever._index) for c in clones} == {id(env._retriever._index)}


# BM25


def test_bm25_ranks_by_words_of_title_and_text() -> None:
    retriever = BM25Retriever(made())
    assert [f.document.id for f in retriever.search("where was the poet Berg born", 5)] == ["b"]
    hits = retriever.search("lund", 5)
    assert {f.document.id for f in hits} == {"a", "b", "d"}
    assert [f.score for f in hits] == sorted((f.score for f in hits), reverse=True)
    assert hits[-1].document.id == "b"  # the word stands once in the longest text
    assert retriever.search("lund", 1) == hits[:1]
    assert retriever.search("quark", 5) == []
    assert [f.document.id for f in retriever.search("日本語", 5)] == ["e"]


# Dense


def encoder(folder: Path) -> str:
    """A BERT of random weights as sentence-transformers saves it: the words of the documents, 32 dimensions."""
    if importlib.util.find_spec("sentence_transformers") is None:
        why = "sentence-transformers is not installed; pip install 'turnwise[dense]'"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = {w for d in DOCUMENTS for w in f"{d.title} {d.text}".lower().replace(".", " ").split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ":", "query", "passage", *sorted(words)]
    source = folder / "bert"
    source.mkdir(parents=True)
    (source / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(source)
    BertTokenizerFast(vocab=str(source / "vocab.txt")).save_pretrained(source)
    transformer = Transformer(str(source), max_seq_length=64)
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean")])
    model.save(str(folder / "encoder"))
    return str(folder / "encoder")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_dense_retriever_ranks_by_cosine_as_a_plain_loop_does(tmp_path: Path, cache: Path) -> None:
    name = encoder(tmp_path)
    from sentence_transformers import SentenceTransformer

    from turnwise.envs.search.dense_retriever import DenseRetriever

    prompts = {"query_prompt": "query: ", "document_prompt": "passage: "}
    retriever = DenseRetriever(made(), name, **prompts)
    model = SentenceTransformer(name)
    vectors = [model.encode(f"passage: {d.title}\n{d.text}") for d in DOCUMENTS]
    for query in ("a poet born in lund", "grey bird", "日本語 " * 5_000, "\0\1"):
        found = retriever.search(query, 3)
        asked = model.encode(f"query: {query}")
        cosines = []
        for vector in vectors:
            dot = sum(float(a) * float(b) for a, b in zip(asked, vector, strict=True))
            norms = np.linalg.norm(asked) * np.linalg.norm(vector)
            cosines.append(dot / float(norms))
        expected = sorted(range(len(DOCUMENTS)), key=lambda i: -cosines[i])[:3]
        assert [f.document for f in found] == [DOCUMENTS[i] for i in expected]
        assert [f.score for f in found] == pytest.approx([cosines[i] for i in expected], abs=1e-4)
    assert retriever.search(" ", 3) == []
    assert len(retriever.search("lund", 20)) == len(DOCUMENTS)
    assert isinstance(retriever._vectors, np.memmap)
    (folder,) = (p for p in (cache / "dense").iterdir() if p.is_dir())
    before = (folder / "vectors.npy").stat().st_mtime_ns
    again = pickle.loads(pickle.dumps(retriever))
    assert again.search("lund", 2) == retriever.search("lund", 2)
    assert (folder / "vectors.npy").stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_environment_plays_over_the_dense_retriever(tmp_path: Path) -> None:
    name = encoder(tmp_path)
    env = tw.make("Search-v1", documents=200, style="short", hops=(1, 2), retriever="dense", encoder=name)
    result = env.rollout(tw.agents.ExpertAgent(), episodes=4)
    assert result.success_rate == 1.0
    with pytest.raises(InvalidParameter, match="is no sentence-transformers model"):
        tw.make(
            "Search-v1",
            documents=200,
            style="short",
            retriever="dense",
            encoder=str(tmp_path / "bert" / "none"),
        )


def test_without_sentence_transformers_the_dense_retriever_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InvalidParameter, match="pip install 'turnwise"):
        tw.make("Search-v1", documents=200, style="short", retriever="dense", encoder="x")


# Remote


class Server:
    """Search-R1's server: POST /retrieve, over the BM25 of a world; `fault` answers instead where it is set."""

    def __init__(self) -> None:
        self.env: Any = tw.make("Search-v1", documents=200, style="short", hops=(1, 2), world_seed=7)
        self.fault: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.asked: list[dict[str, Any]] = []
        self.stopped = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append(body)
                if owner.fault is not None:
                    owner.fault(self)
                    return
                reply(self, owner.results(body))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/retrieve"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def results(self, body: dict[str, Any]) -> dict[str, Any]:
        found = []
        for query in body["queries"]:
            hits = self.env._retriever.search(query, body["topk"])
            found.append([{"document": contents(d), "score": score} for d, score in hits])
        return {"result": found}

    def close(self) -> None:
        self.stopped.set()
        self.http.shutdown()
        self.http.server_close()


def contents(document: Document) -> dict[str, Any]:
    return {"id": document.id, "contents": f'"{document.title}"\n{document.text}'}


def reply(handler: BaseHTTPRequestHandler, data: Any, status: int = 200) -> None:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()
    _client(os.getpid()).close()
    _client.cache_clear()


def remote(server: Server, **parameters: Any) -> Any:
    world = {"documents": 200, "style": "short", "hops": (1, 2), "world_seed": 7}
    return tw.make("Search-v1", retriever="remote", url=server.url, **world, **parameters)


def test_episodes_over_a_remote_retriever_are_those_over_its_index(server: Server) -> None:
    env = remote(server)
    assert env.blocking
    far = env.rollout(tw.agents.ExpertAgent(), episodes=12, seed=1)
    near = server.env.rollout(tw.agents.ExpertAgent(), episodes=12, seed=1)
    assert far.success_rate == near.success_rate == 1.0
    told = [[[turn.observation for turn in t.turns] for t in r.trajectories] for r in (far, near)]
    assert told[0] == told[1]
    assert [t.total_reward for t in far.trajectories] == [t.total_reward for t in near.trajectories]
    for asked in server.asked:
        assert (asked["topk"], asked["return_scores"], len(asked["queries"])) == (3, True, 1)


def test_what_a_remote_retriever_found_can_be_opened(server: Server) -> None:
    env = remote(server, format="bracket", snippet=1)
    env.reset(seed=0)
    title = env.task.data["support"][0][1]
    first = env.step(f"search[{title}]")[0].splitlines()[0]
    identifier = first[1 : first.index("]")]
    opened, _, _, _, info = env.step(f"open[{identifier}]")
    assert opened.startswith(first.partition(":")[0])
    assert not info["invalid"]
    again = pickle.loads(pickle.dumps(env))
    assert again.step(f"open[{identifier}]")[0] == opened


def test_answers_without_scores_and_with_titles_are_understood(server: Server) -> None:
    rows = [{"id": 1, "contents": "Lund\nA city."}, {"id": "2", "title": "Oslo", "text": "Another."}]
    server.fault = lambda h: reply(h, {"result": [rows]})
    found = RemoteRetriever(server.url, 5.0).search("x", 1)
    assert [tuple(f.document) for f in found] == [("1", "Lund", "A city.")]
    found = RemoteRetriever(server.url, 5.0).search("x", 9)
    assert [tuple(f.document) for f in found][1] == ("2", "Oslo", "Another.")


GARBAGE = [
    b"",
    b"<html>busy</html>",
    b"\xff\xfe",
    b"[" * 100_000,
    {"result": []},
    {"result": {}},
    {"results": [[]]},
    [],
    {"result": [[{"document": {"contents": "no id"}}]]},
    {"result": [[{"document": {"id": "1"}}]]},
    {"result": [[{"document": {"id": "1", "contents": 5}}]]},
    {"result": [[{"document": {"id": ["1"], "contents": "a"}}]]},
    {"result": [[{"document": {"id": "1", "contents": "a"}, "score": "high"}]]},
    {"result": [[{"document": {"id": "1", "title": 1, "text": "a"}}]]},
    {"result": [["text"]]},
    b'{"result": [[{"document": {"id": "1", "contents": "a"}, "score": NaN}]]}',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda g: str(g)[:60])
def test_an_answer_that_is_no_result_is_a_typed_failure(server: Server, garbage: Any) -> None:
    server.fault = lambda h: reply(h, garbage)
    with pytest.raises(RetrieverGarbage, match="expected"):
        RemoteRetriever(server.url, 5.0).search("x", 3)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def half(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"result": [')
    handler.close_connection = True


@pytest.mark.parametrize(
    "fault", [hang_up, half, lambda h: reply(h, {"detail": "busy"}, 503), lambda h: reply(h, {}, 302)]
)
def test_a_server_that_hangs_up_or_refuses_is_a_typed_failure(server: Server, fault: Any) -> None:
    server.fault = fault
    with pytest.raises(RetrieverGone):
        RemoteRetriever(server.url, 5.0).search("x", 3)


def test_a_server_that_is_gone_is_a_typed_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RetrieverGone):
            RemoteRetriever(f"http://127.0.0.1:{port}/retrieve", 5.0).search("x", 3)


def test_a_server_that_does_not_answer_in_time_is_a_typed_failure(server: Server) -> None:
    server.fault = lambda _: server.stopped.wait(20) and None
    began = time.monotonic()
    with pytest.raises(RetrieverTimeout, match=r"did not answer within 0\.3 s"):
        RemoteRetriever(server.url, 0.3).search("x", 3)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lambda h: reply(h, b"garbage"), "RetrieverGarbage"),
        (hang_up, "RetrieverGone"),
        (lambda _: time.sleep(2), "RetrieverTimeout"),
    ],
)
def test_an_episode_whose_retriever_broke_has_failed_and_is_no_zero(
    server: Server, fault: Any, name: str
) -> None:
    env = remote(server, timeout=0.3)
    server.fault = fault
    result = env.rollout(tw.agents.ExpertAgent(), episodes=2)
    assert [t.status for t in result.trajectories] == ["failed"] * 2
    assert all(t.error is not None and t.error.startswith(f"{name}: ") for t in result.trajectories)
    assert all(t.attempts == 2 for t in result.trajectories)
    assert result.failures == {name: 2}
    assert result.played == []


def test_an_episode_goes_on_when_the_retriever_is_back(server: Server) -> None:
    env = remote(server)
    broken = iter([True])

    def once(handler: BaseHTTPRequestHandler) -> None:
        if next(broken, False):
            hang_up(handler)
        else:
            reply(handler, server.results(server.asked[-1]))

    server.fault = once
    result = env.rollout(tw.agents.ExpertAgent(), episodes=1)
    assert result.trajectories[0].attempts == 2
    assert result.success_rate == 1.0


def test_queries_of_any_text_reach_a_remote_retriever(server: Server) -> None:
    retriever = RemoteRetriever(server.url, 20.0)
    for query in ("x" * 100_000, "\0\x07\n", "日本語 עברית 𐐷🙂", '"}]'):
        retriever.search(query, 2)
        assert server.asked[-1]["queries"] == [query]
