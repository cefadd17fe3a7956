"""A model behind a server, against a real HTTP server in this process that does everything wrong that servers do."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import turnwise as tw
from turnwise.agents.endpoint import BadReply, ServerDown, ServerRefused
from turnwise.envs import Conversation
from turnwise.envs.errors import ContextFull, UsageError

pytest.importorskip("aiohttp")


class Server:
    """A chat endpoint. `answer(body, number)` gives a completion, or a function that writes to the connection itself."""

    def __init__(self, answer):
        self.requests, self.heads, self.times, self.active, self.most_active = [], [], [], 0, 0
        self.over = threading.Event()
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(server.requests)
                    server.requests.append(body)
                    server.heads.append((self.path, dict(self.headers)))
                    server.times.append(time.monotonic())
                    server.active += 1
                    server.most_active = max(server.most_active, server.active)
                try:
                    reply = answer(body, number)
                    if callable(reply):
                        reply(self, server)
                    else:
                        send(self, 200, json.dumps(reply).encode())
                finally:
                    with lock:
                        server.active -= 1

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_):
                pass  # a client that has stopped waiting

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


def send(handler, status, content, **headers):
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def status(code, content=b"", **headers):
    return lambda handler, _: send(handler, code, content, **headers)


def says(text, calls=None, **more):
    message = {"role": "assistant", "content": text}
    if calls is not None:
        message["tool_calls"] = [
            {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    return {"choices": [{"index": 0, "message": message, **more}], "usage": usage}


def content(raw):
    return lambda handler, _: send(handler, 200, raw)


def closes_mid_answer(handler, _):
    whole = json.dumps(says("guess[1]")).encode()
    send(handler, 200, whole[:20], Content_Length=str(len(whole)))
    handler.close_connection = True


def hangs_up(handler, _):
    handler.close_connection = True


def stalls(handler, server):
    server.over.wait(20)


def trickles(handler, server):
    """A byte now and then, for ever: no silence is long enough for a read time-out."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not server.over.wait(0.02):
        handler.wfile.write(b"1\r\n \r\n")
        handler.wfile.flush()


def never_ends(handler, server):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    chunk = b"%x\r\n%s\r\n" % (2**20, b"a" * 2**20)
    while not server.over.is_set():
        handler.wfile.write(chunk)


def agent(server, **options):
    options = {"backoff": 0.001, "retries": 2, "read_timeout": 0.25, "timeout": 0.6, **options}
    return tw.agents.OpenAIAgent(server.url, "m", **options)


def lower(form="bracket", **parameters):
    return tw.make("HigherLower-v1", format=form, max_turns=3, **parameters)


def act(agent, *messages, env=None, seed=0, id="c"):
    env = env or lower()
    conversation = Conversation(
        list(messages) or [{"role": "user", "content": "o"}], id=id, seed=seed, env=env
    )
    return asyncio.run(agent.act(conversation))


# What is sent, and what comes back.


def test_an_episode_is_played_and_accounted_for():
    with Server(lambda body, n: says(f"I try guess[{n + 1}]")) as server:
        player = agent(server, temperature=0.5, top_p=0.9, max_tokens=20, key="secret")
        result = lower(high=100).rollout(player, episodes=1)
    (t,) = result.trajectories
    assert [turn.arguments for turn in t.turns] == [{"number": 1}, {"number": 2}, {"number": 3}]
    assert {(turn.input_tokens, turn.output_tokens, turn.cached_tokens) for turn in t.turns} == {(7, 3, 2)}
    assert t.agent == "openai:m"
    assert "secret" not in t.to_json()
    body, (path, headers) = server.requests[0], server.heads[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "m"
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 20)
    assert "stream" not in body
    assert "logprobs" not in body


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("form", ["hermes", "bracket", "react", "python"])
def test_every_turn_sends_what_the_turn_before_sent_byte_for_byte(form, native):
    def answer(body, number):
        if native:
            return says(["Let me see.", None, ""][number], [("guess", json.dumps({"number": number + 1}))])
        return says(lower(form).write(tw.envs.Call("guess", {"number": number + 1})))

    with Server(answer) as server:
        (t,) = lower(form).rollout(agent(server, native_tools=native), episodes=1).trajectories
    assert [turn.arguments for turn in t.turns] == [{"number": 1}, {"number": 2}, {"number": 3}]
    texts = [json.dumps(body["messages"]).removesuffix("]") for body in server.requests]
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    rest = [{k: v for k, v in body.items() if k not in ("messages", "seed")} for body in server.requests]
    assert rest[0] == rest[1] == rest[2]


def test_native_calls_go_back_as_calls_with_their_answers():
    with Server(lambda body, n: says("So.", [("guess", json.dumps({"number": n + 1}))])) as server:
        (t,) = lower("hermes").rollout(agent(server, native_tools=True), episodes=1).trajectories
    assert (
        t.turns[0].action == 'So.\n<tool_call>\n{"name": "guess", "arguments": {"number": 1}}\n</tool_call>'
    )
    first, last = server.requests[0], server.requests[-1]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["guess"]
    system, _ = first["messages"]
    assert "<tools>" not in system["content"]  # the server is told about the tools, and in one way
    called = last["messages"][2]
    assert called["content"] == "So."
    assert called["tool_calls"][0]["function"] == {"name": "guess", "arguments": '{"number": 1}'}
    answer = last["messages"][3]
    assert (answer["role"], answer["tool_call_id"]) == ("tool", called["tool_calls"][0]["id"])
    assert answer["content"] == t.turns[1].observation


@pytest.mark.parametrize("form", ["hermes", "bracket", "react", "python"])
@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ([("guess", '{"number": 1')], ""),
        ([("guess", "[1]")], ""),
        ([("guess", '{"number": 1, "more": 2}')], ""),
        ([("guess", "{}")], ""),
        ([("guess", '{"number": "many"}')], ""),
        ([("gess", '{"number": 1}')], "no tool"),
        ([("a\n```\nb [", '{"x y": NaN}')], ""),
        ([("guess", '{"number": ' + "[" * 100_000)], ""),
        ([("guess", '{"number": 1}'), ("guess", '{"number": 2}')], ""),
        ([], ""),
    ],
)
def test_a_wrong_native_call_costs_its_turn_and_nothing_else(form, calls, why):
    with Server(lambda body, n: says(None, calls)) as server:
        (t,) = lower(form).rollout(agent(server, native_tools=True), episodes=1).trajectories
    assert (t.status, t.error) == ("truncated", None)
    assert all(turn.invalid for turn in t.turns)
    assert why in t.final_observation
    assert len(server.requests) == 3


def test_a_thought_that_looks_like_a_call_does_not_beat_the_call():
    with Server(lambda body, n: says("Not guess[1].", [("guess", {"number": 9})])) as server:
        (t,) = lower("bracket").rollout(agent(server, native_tools=True), episodes=1).trajectories
    assert t.turns[0].arguments == {"number": 9}


def test_a_branch_of_another_agents_episode_is_told_in_native_calls():
    env = lower("hermes")
    text = env.write(tw.envs.Call("guess", {"number": "5"}))
    told = [
        {"role": "user", "content": "o"},
        {"role": "assistant", "content": f"Hm.\n{text}"},
        {"role": "tool", "content": "Higher."},
        {"role": "assistant", "content": "I give up."},
        {"role": "tool", "content": "Invalid."},
    ]
    with Server(lambda body, n: says("", [])) as server:
        act(agent(server, native_tools=True), *told, env=env)
    _, called, answered, gave_up, last = server.requests[0]["messages"]
    assert called["tool_calls"][0]["function"]["arguments"] == '{"number": 5}'
    assert (called["content"], answered["tool_call_id"]) == ("Hm.", called["tool_calls"][0]["id"])
    assert gave_up == {"role": "assistant", "content": "I give up."}
    assert last == {"role": "user", "content": "Invalid."}


@pytest.mark.parametrize("text", ["", None, "<think>hm", "\ud800 guess[1]", "x" * 100_000])
def test_what_the_model_writes_is_data(text):
    with Server(lambda body, n: says(text, finish_reason="length")) as server:
        (t,) = lower().rollout(agent(server), episodes=1).trajectories
    assert t.status != "failed"
    assert len(server.requests) == len(t.turns)


def test_the_seed_follows_from_the_conversation_and_the_turn():
    more = [
        {"role": "user", "content": "o"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "p"},
    ]
    with Server(lambda body, n: says("x")) as server:
        act(agent(server), seed=5)
        act(agent(server), seed=5, id="other")
        act(agent(server), seed=6)
        act(agent(server), *more, seed=5)
        act(agent(server, send_seed=False), seed=5)
    seeds = [body.get("seed") for body in server.requests]
    assert seeds[0] == seeds[1]
    assert len({seeds[0], *seeds[2:4]}) == 3
    assert seeds[4] is None
    assert all(0 <= seed < 2**31 for seed in seeds[:4])


def test_further_fields_are_sent_and_those_of_the_agent_are_its_own():
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    with Server(lambda body, n: says("x")) as server:
        act(agent(server, extra_body={**thinking, "seed": 3}))
        assert server.requests[0]["chat_template_kwargs"] == thinking["chat_template_kwargs"]
        assert server.requests[0]["seed"] == 3
        with pytest.raises(UsageError, match="extra_body may not hold messages, stream"):
            agent(server, extra_body={"stream": True, "messages": []})


def test_log_probs_and_token_ids_are_kept_where_the_context_only_grows():
    def answer(body, number):
        prompt = [[1, 2], [1, 2, 10, 11, 3], [9, 9]][number]
        found = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.0}]}
        return says("guess[1]", logprobs=found, token_ids=[10, 11]) | {"prompt_token_ids": prompt}

    with Server(answer) as server:
        (t,) = lower().rollout(agent(server, log_probs=True, token_ids=True), episodes=1).trajectories
        assert server.requests[0]["logprobs"] is True
        assert server.requests[0]["return_token_ids"] is True
    assert [turn.prompt_ids for turn in t.turns] == [[1, 2], [3], []]
    assert [turn.action_ids for turn in t.turns] == [[10, 11], [10, 11], []]
    assert [turn.action_log_probs for turn in t.turns] == [[-0.5, -1.0]] * 3


# Faults: each once, after which the episode goes on as if nothing had been, and each without end.

FAULTS = {
    "429": (status(429, b"slow down"), ServerDown),
    "500": (status(500, b"oops"), ServerDown),
    "529": (status(529, b"overloaded"), ServerDown),
    "empty choices": (content(b'{"choices": []}'), BadReply),
    "an error with status 200": (content(b'{"error": {"message": "boom"}}'), BadReply),
    "a message that is null": (content(b'{"choices": [{"message": null}]}'), BadReply),
    "content that is no text": (content(b'{"choices": [{"message": {"content": 3}}]}'), BadReply),
    "a tool call without a name": (
        content(b'{"choices": [{"message": {"content": "", "tool_calls": [{"function": {}}]}}]}'),
        BadReply,
    ),
    "truncated JSON": (content(json.dumps(says("guess[1]")).encode()[:-9]), BadReply),
    "bytes that are no UTF-8": (content(b'{"choices": "\xff\xfe'), BadReply),
    "JSON nested without end": (content(b"[" * 100_000), BadReply),
    "nothing": (content(b""), BadReply),
    "closes mid-answer": (closes_mid_answer, ServerDown),
    "hangs up": (hangs_up, ServerDown),
    "stalls": (stalls, ServerDown),
    "trickles": (trickles, ServerDown),
    "endless text": (never_ends, BadReply),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_not_seen_in_the_episode(fault, monkeypatch):
    monkeypatch.setattr(tw.agents.endpoint, "_LARGEST_REPLY", 2**20)
    broken, _ = FAULTS[fault]
    with Server(lambda body, n: broken if n == 1 else says(None, [("guess", '{"number": 1}')])) as server:
        (t,) = lower().rollout(agent(server, native_tools=True), episodes=1).trajectories
    assert (t.status, t.attempts, len(t.turns)) == ("truncated", 1, 3)
    assert not any(turn.invalid for turn in t.turns)
    assert len(server.requests) == 4
    assert server.requests[1] == server.requests[2]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_a_failure_and_never_a_score(fault, monkeypatch):
    monkeypatch.setattr(tw.agents.endpoint, "_LARGEST_REPLY", 2**20)
    broken, error = FAULTS[fault]
    with Server(lambda body, n: broken) as server:
        result = lower().rollout(agent(server, native_tools=True, retries=1), episodes=1)
    assert result.failures == {error.__name__: 1}
    assert result.played == []
    assert len(server.requests) == 4  # the episode was tried twice


def test_a_server_that_is_not_there_is_a_failure():
    player = tw.agents.OpenAIAgent("http://127.0.0.1:1/v1", "m", retries=1, backoff=0.001)
    assert lower().rollout(player, episodes=1).failures == {"ServerDown": 1}


def test_retry_after_is_honoured_and_waits_grow():
    faults = [status(429, b"", Retry_After="0.3"), status(503), status(503), status(503)]
    with Server(lambda body, n: faults[n] if n < 4 else says("x")) as server:
        act(agent(server, retries=4, backoff=0.02))
    waits = [after - before for before, after in itertools.pairwise(server.times)]
    assert waits[0] >= 0.3
    for wait, least in zip(waits[1:], (0.04, 0.08, 0.16), strict=True):
        assert wait >= least  # doubled, and up to half of it more


def test_retry_after_may_be_a_date():
    from turnwise.agents.endpoint import _seconds

    assert _seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert _seconds({"Retry-After": "Thu, 01 Jan 2099 00:00:00 GMT"}) > 1e8
    assert [_seconds({"Retry-After": text}) for text in ("2", "-1", "soon", "nan")] == [2.0, 0.0, 0.0, 0.0]
    assert _seconds({}) == 0.0


def test_one_broken_conversation_does_not_hold_up_the_others():
    def answer(body, number):
        return stalls if "53" in body["messages"][-1]["content"] else says("guess[1]")

    class Numbered(tw.TurnEnv):
        """Says a number."""

        max_turns: int = 2

        def start(self, task, rng):
            return task.id.rpartition("-")[2].replace("3", "53")

        @tw.tool
        def guess(self, number: int) -> str:
            """Guess."""
            return "Lower."

    with Server(answer) as server:
        result = Numbered(format="bracket").rollout(agent(server, retries=0), episodes=8, concurrency=8)
    assert [t.status for t in result.trajectories].count("failed") == 1
    assert result.failures == {"ServerDown": 1}


def test_requests_are_limited_at_a_time():
    def answer(body, number):
        time.sleep(0.05)
        return says("guess[1]")

    with Server(answer) as server:
        lower().rollout(
            agent(server, concurrency=3, timeout=20, read_timeout=20), episodes=12, concurrency=12
        )
    assert server.most_active == 3
    assert len(server.requests) == 36


# What the server refuses.


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_wrong_key_name_or_address_is_told_at_once(code):
    with Server(lambda body, n: status(code, b"no such model")) as server:
        with pytest.raises(UsageError, match=f"status {code}: no such model; check address, model and key"):
            lower().rollout(agent(server), episodes=8, concurrency=1)
        assert len(server.requests) == 1


def test_a_refusal_later_on_fails_its_episode_alone():
    with Server(lambda body, n: status(403, b"quota") if n in (3, 4) else says("guess[1]")) as server:
        result = lower().rollout(agent(server), episodes=3, concurrency=1)
    assert result.failures == {"ServerRefused": 1}
    assert len(server.requests) == 3 + 2 + 3


def test_a_refused_request_is_not_repeated():
    with Server(lambda body, n: status(400, b"unknown field 'seed'")) as server:
        with pytest.raises(ServerRefused, match="unknown field 'seed'"):
            act(agent(server))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": "context_length_exceeded", "message": "too long"}},
        {"message": "This model's maximum context length is 64 tokens. However, you requested 70 tokens"},
        {"error": {"type": "exceed_context_size_error", "message": "exceeds the available context size"}},
        {"error": "The input (80 tokens) is longer than the model's context length (64 tokens)."},
        {"error": "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 60 `inputs` tokens"},
        {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}},
    ],
)
def test_a_conversation_that_is_too_long_ends_truncated(said):
    def answer(body, number):
        return says("guess[1]") if number == 0 else status(400, json.dumps(said).encode())

    with Server(answer) as server:
        (t,) = lower().rollout(agent(server), episodes=1).trajectories
        assert len(server.requests) == 2
        with pytest.raises(ContextFull):
            act(agent(server))
    assert (t.status, t.error, len(t.turns)) == ("truncated", None, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "localhost:8000"}, "base address"),
        ({"model": ""}, "model must be the name"),
        ({"top_log_probs": 21}, "top_log_probs must be from 0 to 20"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        tw.agents.OpenAIAgent(**{"url": "http://localhost/v1", "model": "m", **options})


def test_without_aiohttp_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "aiohttp", None)
    player = tw.agents.OpenAIAgent("http://127.0.0.1:1/v1", "m")
    with pytest.raises(UsageError, match=r"pip install 'turnwise\[openai\]'"):
        lower().rollout(player, episodes=1)


def test_one_agent_serves_one_rollout_after_another():
    with Server(lambda body, n: says("guess[1]")) as server:
        player = agent(server)
        for seed in range(3):  # an event loop each
            assert lower().rollout(player, episodes=2, seed=seed).failures == {}
        assert player._contexts == {}


# What the environment variables and the netrc file say.


def basic(login):
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.fixture
def surroundings(monkeypatch, tmp_path):
    """Sets the environment variables of proxies and the text of the netrc file; there are no others."""

    def say(netrc=None, **variables):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        if netrc is not None:
            (tmp_path / "netrc").write_text(netrc)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    say("")
    return say


def test_a_proxy_carries_requests_and_is_not_asked_for_excepted_hosts(surroundings):
    with (
        Server(lambda body, n: says("guess[1]")) as server,
        Server(lambda body, n: says("guess[2]")) as proxy,
    ):
        address = f"http://127.0.0.1:{proxy.http.server_port}"
        surroundings(HTTP_PROXY=address, HTTPS_PROXY="http://127.0.0.1:1")
        assert act(agent(server, key="k")).text == "guess[2]"
        path, headers = proxy.heads[0]
        assert path == f"{server.url}/chat/completions"
        assert headers["Authorization"] == "Bearer k"
        assert "Proxy-Authorization" not in headers
        surroundings(HTTP_PROXY=address.replace("//", "//me:a%40b@"))
        assert act(agent(server)).text == "guess[2]"
        assert proxy.heads[1][1]["Proxy-Authorization"] == basic("me:a@b")
        surroundings(
            "machine 127.0.0.1 login you password c@d", http_proxy=address.replace("127.0.0.1", "localhost")
        )
        act(agent(server))
        assert "Proxy-Authorization" not in proxy.heads[2][1]
        assert proxy.heads[2][1]["Authorization"] == basic("you:c@d")
        surroundings("machine 127.0.0.1 login you password c@d", HTTP_PROXY=address)
        act(agent(server))
        assert proxy.heads[3][1]["Proxy-Authorization"] == basic("you:c@d")
        for hosts in ("example.org,127.0.0.1", "*"):
            surroundings(HTTP_PROXY=address, NO_PROXY=hosts)
            assert act(agent(server)).text == "guess[1]"
        surroundings(HTTPS_PROXY=address)
        assert act(agent(server)).text == "guess[1]"
        assert (len(server.requests), len(proxy.requests)) == (3, 4)


def test_a_login_of_the_netrc_file_is_sent_where_nothing_else_is_given(surroundings):
    with Server(lambda body, n: says("guess[1]")) as server:
        surroundings("machine 127.0.0.1 login me password secret")
        act(agent(server))
        act(agent(server, key="k"))
        act(tw.agents.OpenAIAgent(server.url.replace("//", "//you:own@"), "m"))
        surroundings("default login all password p")
        act(agent(server))
        surroundings("machine example.org login me password secret")
        act(agent(server))
        surroundings("machine 127.0.0.1 what is this")
        with pytest.warns(UserWarning, match="netrc is not used"):
            act(agent(server))
        found = [headers.get("Authorization") for _, headers in server.heads]
    assert found == [basic("me:secret"), "Bearer k", basic("you:own"), basic("all:p"), None, None]


def test_the_netrc_file_is_read_once_for_all_requests_of_a_loop(surroundings, tmp_path):
    surroundings("machine 127.0.0.1 login me password secret")
    with Server(lambda body, n: says("guess[1]")) as server:

        async def twice():
            player = agent(server)
            conversation = Conversation([{"role": "user", "content": "o"}], id="c", seed=0, env=lower())
            await player.act(conversation)
            (tmp_path / "netrc").write_text("")
            await player.act(conversation)

        asyncio.run(twice())
        assert [headers["Authorization"] for _, headers in server.heads] == [basic("me:secret")] * 2
