"""Beliefs through an inference server, against the same model in this process."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import transformers
from torch.nn import functional as F

from turnwise.trainers.rewards.scoring import Probe, forced_log_probs
from turnwise.trainers.rewards.server_scorer import ScorerFailed, ServerScorer

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def server(model):
    """Speaks as much of vLLM's completions as is needed; `plan` is a list of (status, body) to answer with first."""
    seen, plan, lock = [], [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        @torch.no_grad()
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                seen.append(request)
                status, body = plan.pop(0) if plan else (200, None)
                if body is None:
                    ids = request["prompt"]
                    log_p = F.log_softmax(model(torch.tensor([ids])).logits[0], -1)
                    rows = [
                        {
                            str(ids[m]): {
                                "logprob": float(log_p[m - 1, ids[m]]),
                                "rank": 1,
                                "decoded_token": "x",
                            }
                        }
                        for m in range(1, len(ids))
                    ]
                    body = {"choices": [{"text": "", "prompt_logprobs": [None, *rows]}]}
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):
            pass  # a client that has its answer hangs up on the other requests

    http = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1", seen, plan
    http.shutdown()
    http.server_close()
    thread.join()


CONTEXTS = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 7], [4]]
PROBES = [[Probe(2, (5, 6, 7), 1), Probe(7, (5, 6, 7), 1)], [Probe(3, (5,), 0)], []]


def _ask(url, **options):
    scorer = ServerScorer(url, "policy", backoff=0.01, **options)
    return asyncio.run(scorer.log_probs(CONTEXTS, PROBES))


def test_the_server_gives_what_the_model_gives(server, model):
    url, seen, _ = server
    found = _ask(url)
    expected = forced_log_probs(model, CONTEXTS, PROBES)
    assert [len(own) for own in found] == [2, 1, 0]
    for own, theirs in zip(found, expected, strict=True):
        for values, others in zip(own, theirs, strict=True):
            assert values == pytest.approx(others, abs=1e-5)
    assert sorted(len(r["prompt"]) for r in seen) == [4, 5, 10]
    assert all(r["model"] == "policy" and r["max_tokens"] == 1 for r in seen)


def test_an_overloaded_server_is_asked_again(server):
    url, seen, plan = server
    plan += [(503, {}), (429, {})]
    assert None not in _ask(url)[0]
    assert len(seen) == 5


def test_what_is_too_long_for_the_server_has_no_number(server):
    url, _, plan = server
    plan += [(400, {"message": "This model's maximum context length is 4 tokens."})] * 3
    assert _ask(url) == [[None, None], [None], []]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"message": "no key"}), "status 401"),
        ((200, {"choices": [{"text": ""}]}), "as vLLM does .KeyError: 'prompt_logprobs'"),
        ((200, {"choices": [{"prompt_logprobs": [None]}]}), "1 entries for a prompt of"),
    ],
)
def test_a_server_that_gives_none_is_named(server, answer, message):
    url, _, plan = server
    plan += [answer] * 3
    with pytest.raises(ScorerFailed, match=message):
        _ask(url)


def test_a_server_that_is_down_is_named():
    with pytest.raises(ScorerFailed, match=r"127\.0\.0\.1:1/v1/completions gave no log-probabilities"):
        _ask("http://127.0.0.1:1/v1", retries=1)
