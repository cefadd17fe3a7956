"""MCP servers as environments: real servers over their standard streams and over HTTP, and all the ways in which they break."""

from __future__ import annotations

import gc
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import turnwise as tw
from turnwise.envs.check import CHECKS, Subject
from turnwise.envs.errors import EnvFailure, InvalidParameter, UsageError
from turnwise.envs.remote import ServerGarbage, ServerGone, ServerTimeout

if find_spec("mcp") is None and os.environ.get("CI") != "true":
    pytest.skip("mcp: not installed; `pip install 'turnwise[mcp]'`", allow_module_level=True)

from turnwise.envs.adapters.mcp import MCP, ServerDiffers, ToolUse

SERVER = '''
import os, sys, time
from pathlib import Path

try:
    from mcp.server.mcpserver import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer

Path(os.environ["PIDS"], str(os.getpid())).touch()
server = MCPServer("desk", instructions="Numbers are whole.")
total = 0

@server.tool()
def add(number: int, times: int = 1) -> str:
    """Add to the total."""
    global total
    total += number * times
    return f"total {total}"

@server.tool(name="look-up")
def look_up(word: str) -> str:
    """Look a word up."""
    if word == "nothing":
        raise KeyError(word)
    return {"long": "x" * 50_000, "empty": ""}.get(word, f"{word}: a word")

@server.tool()
def die() -> str:
    """End at once."""
    print("the disk is on fire", file=sys.stderr, flush=True)
    os._exit(3)

@server.tool()
def hang() -> str:
    """Never answer."""
    time.sleep(600)
    return ""

@server.tool()
def clock() -> str:
    """What differs every time."""
    return str(time.time_ns())

if len(sys.argv) == 1:
    server.run()
elif hasattr(server.settings, "port"):  # mcp 1
    server.settings.port = int(sys.argv[1])
    server.run("streamable-http")
else:
    server.run("streamable-http", port=int(sys.argv[1]))
'''
PLAIN_SERVER = """
import json, sys

said = []
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    elif asked["method"] == "initialize":
        found = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}}}
        found["serverInfo"] = {"name": "plain", "version": "1"}
    elif asked["method"] == "tools/list":
        words = {"type": "object", "properties": {"word": {"type": "string", "description": "what"}}, "required": ["word"]}
        count = {"type": "object", "properties": {"least": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
        odd = {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/none.json"}}, "required": ["x"]}
        tools = [("say", words), ("count", count), ("odd", odd)]
        found = {"tools": [{"name": name, "inputSchema": schema} for name, schema in tools]}
    else:
        arguments = asked["params"].get("arguments") or {}
        said.append(arguments)
        if arguments.get("word") == "line":
            print("HTTP/1.1 200 OK", flush=True)
            continue
        found = {"content": [{"type": "text", "text": f"{len(said)}: {json.dumps(arguments)}"}]}
        if arguments.get("word") == "shape":
            found = {"content": "a text"}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": found}), flush=True)
"""
QUESTIONS = [
    {"question": "What is 2 + 3?", "answer": 5, "family": "sums"},
    {"question": "What is 20 + 3?", "answers": ["23", "twenty-three"]},
    {"prompt": "Say hello.", "reference": "Hello.", "split": "test", "id": "hello", "loud": True},
]


@pytest.fixture
def desk(tmp_path):
    """Makes environments on the server, and sees to it that none of its processes is left."""
    program = tmp_path / "desk.py"
    program.write_text(SERVER)
    pids = tmp_path / "pids"
    pids.mkdir()
    made = []

    def make(**parameters):
        given = {
            "command": [sys.executable, str(program)],
            "variables": {"PIDS": str(pids)},
            "questions": QUESTIONS,
            "timeout": 30,
            **parameters,
        }
        made.append(MCP(**given))
        return made[-1]

    make.pids, make.program = pids, program
    yield make
    for env in made:
        env.close()
    assert alive(pids) == []


@pytest.fixture
def plain(tmp_path):
    """Parameters of an environment on a server that needs no library and starts at once."""
    program = tmp_path / "plain.py"
    program.write_text(PLAIN_SERVER)
    return {"command": [sys.executable, "-S", str(program)], "questions": QUESTIONS}


def alive(pids: Path) -> list[int]:
    return [int(file.name) for file in pids.iterdir() if Path("/proc", file.name, "cmdline").exists()]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def does(env, name, **arguments):
    return env.step(env.write(tw.Call(name, arguments)))


def test_the_tools_of_the_server_are_those_of_the_environment(desk):
    env = desk()
    assert list(env.tools) == ["add", "look_up", "die", "hang", "clock", "answer"]
    assert env.tools["add"].description == "Add to the total."
    assert env.tools["add"].parameters == ("number", "times")
    assert env.tools["add"].defaults == {"times": 1}
    assert env.tools["add"].schema["properties"]["number"]["type"] == "integer"
    opening = env.messages(env.reset(seed=0)[0])
    assert "Numbers are whole." in opening[0]["content"]
    assert opening[1]["content"] == "What is 2 + 3?"
    assert list(desk(only=("look-up",), finish="submit").tools) == ["look_up", "submit"]


@pytest.mark.parametrize("format", tw.envs.FORMATS)
def test_an_episode_calls_the_server_and_is_scored_by_its_answer(desk, format):
    env = desk(format=format)
    env.reset(seed=0)
    assert does(env, "add", number=2)[0] == "total 2"
    assert does(env, "add", number=3, times=2)[0] == "total 8"
    observation, _, _, _, info = does(env, "look_up", word="nothing")
    assert "Error executing tool look-up" in observation
    assert info["invalid"]
    _, reward, terminated, _, info = does(env, "answer", text=" 5. ")
    assert (reward, terminated, info["success"], info["score"]) == (1.0, True, True, 1.0)
    env.reset(seed=1)
    assert does(env, "add", number=1)[0] == "total 1"  # the total of the episode before is gone
    _, reward, terminated, _, info = does(env, "answer", text="24")
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_wrong_arguments_are_told_to_the_agent_without_a_call(desk):
    env = desk(stateful=False)
    env.reset(seed=0)
    for arguments, said in [
        ({"number": "many"}, "number is wrong: 'many' is not of type 'integer'"),
        ({}, "'number' is a required property"),
    ]:
        observation, _, _, _, info = does(env, "add", **arguments)
        assert said in observation
        assert info["invalid"]
        assert info["call"] is None
    assert does(env, "add", number="4", times=None)[0].startswith("Invalid action")
    assert env.uses == []
    assert does(env, "add", number="4")[4]["call"] == tw.Call("add", {"number": 4})


def test_long_results_are_cut_and_empty_ones_are_said(desk):
    env = desk(longest=100)
    env.reset(seed=0)
    assert does(env, "look_up", word="long")[0] == "x" * 100 + "\n[cut: the first 100 of 50000 characters]"
    assert does(env, "look_up", word="empty")[0] in ("", "(no output)")


def test_the_users_scorer_sees_answer_task_and_calls(desk):
    seen = []

    def scorer(answer, task, uses):
        seen.append((answer, task.id, uses))
        return 0.25

    env = desk(scorer=scorer)
    env.reset(options={"task": "hello"})
    assert env.task.data == {"loud": True}
    does(env, "look_up", word="hello")
    _, reward, _, _, info = does(env, "answer", text="Hi")
    assert (reward, info["score"], info["success"]) == (0.25, 0.25, False)
    use = ToolUse(tw.Call("look-up", {"word": "hello"}), "hello: a word", False)
    assert seen == [("Hi", "hello", (use,))]


def test_tasks_come_from_a_file_too(desk, tmp_path):
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(json.dumps(question) for question in QUESTIONS))
    from_file, from_list = desk(questions=str(file)).tasks, desk().tasks
    assert from_file.splits == from_list.splits == {"train": 2, "test": 1}
    assert [from_file.get("train", i) for i in range(2)] == [from_list.get("train", i) for i in range(2)]
    assert from_list.get("train", 0).family == "sums"
    assert from_list.get("train", 1).reference == ("23", "twenty-three")


def test_a_server_that_dies_is_a_failure_with_its_last_words_and_the_next_episode_has_another(desk):
    env = desk()
    env.reset(seed=0)
    before = time.monotonic()
    with pytest.raises(ServerGone, match="the disk is on fire"):
        does(env, "die")
    assert time.monotonic() - before < 10
    env.reset(seed=0)
    assert does(env, "add", number=2)[0] == "total 2"


def test_a_server_killed_between_two_calls_is_a_failure(desk):
    env = desk()
    env.reset(seed=0)
    does(env, "add", number=2)
    for pid in alive(desk.pids):
        os.kill(pid, 9)
    time.sleep(0.3)
    with pytest.raises(ServerGone):
        does(env, "add", number=2)


def test_a_server_that_hangs_is_a_failure_and_its_process_is_ended(desk):
    env = desk(timeout=5)
    env.reset(seed=0)
    does(env, "add", number=2)
    env.timeout = 0.5
    env._session._timeout = 0.5
    with pytest.raises(ServerTimeout, match=r"did not answer in 0\.5 seconds"):
        does(env, "hang")
    assert alive(desk.pids) == []


@pytest.mark.parametrize("word", ["line", "shape"])
def test_a_server_that_answers_garbage_is_a_failure(plain, word):
    env = MCP(**plain, timeout=20)
    env.reset(seed=0)
    does(env, "say", word="before")
    env._session._timeout = 1.0
    with pytest.raises(ServerGarbage, match="what is not MCP"):
        does(env, "say", word=word)
    env.close()


@pytest.mark.parametrize("name", CHECKS)
def test_an_environment_of_tools_keeps_the_contract(plain, name, register):
    subject = Subject(register(MCP, "Plain-v0", **plain, max_turns=4), {})
    CHECKS[name](subject)
    gc.collect()


def test_a_schema_that_cannot_be_judged_here_is_left_to_the_server(plain):
    env = MCP(**plain)
    env.reset(seed=0)
    assert does(env, "odd", x=[1])[0] == '1: {"x": [1]}'
    assert does(env, "count", least=None)[0] == "2: {}"
    assert does(env, "count", least=3)[0] == '3: {"least": 3}'
    env.close()


def test_a_broken_server_fails_the_episode_and_is_never_a_zero(desk):
    dies = '<tool_call>\n{"name": "die", "arguments": {}}\n</tool_call>'
    result = desk().rollout(lambda messages: dies, episodes=2, concurrency=2)
    assert [t.status for t in result.trajectories] == ["failed", "failed"]


def test_a_restored_episode_goes_on_in_a_server_that_saw_the_same_calls(desk):
    env = desk()
    env.reset(seed=0)
    does(env, "add", number=2)
    saved = env.snapshot()
    here = does(env, "add", number=5)
    env.restore(saved)
    assert does(env, "add", number=5) == here
    other = env.clone()
    other.reset(seed=1)
    other.restore(saved)
    assert does(other, "add", number=5) == here
    other.close()
    third = pickle.loads(pickle.dumps(env))
    assert does(third, "add", number=1)[0] == does(env, "add", number=1)[0] == "total 8"
    third.close()


def test_what_cannot_be_restored_says_so(desk):
    env = desk()
    env.reset(seed=0)
    does(env, "clock")
    saved = env.snapshot()
    does(env, "add", number=1)
    env.restore(saved)
    with pytest.raises(ServerDiffers, match="cannot be restored"):
        does(env, "add", number=1)


def test_lookups_keep_one_server_over_episodes(desk):
    env = desk(stateful=False)
    for seed in range(4):
        env.reset(seed=seed)
        does(env, "look_up", word="tree")
    assert len(list(desk.pids.iterdir())) == 1


def test_a_dropped_environment_leaves_no_process(desk):
    env = MCP(
        command=[sys.executable, str(desk.program)], variables={"PIDS": str(desk.pids)}, questions=QUESTIONS
    )
    env.reset(seed=0)
    does(env, "add", number=1)
    assert len(alive(desk.pids)) == 1
    del env
    gc.collect()
    assert alive(desk.pids) == []


def test_a_program_that_ends_without_close_leaves_no_process(desk):
    code = (
        "import sys; from turnwise.envs.adapters.mcp import MCP\n"
        f"env = MCP(command=[sys.executable, {str(desk.program)!r}], variables={{'PIDS': {str(desk.pids)!r}}},"
        f" questions={QUESTIONS!r})\nenv.reset(seed=0)\nprint(len(env.tools))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr
    assert len(list(desk.pids.iterdir())) == 1
    assert alive(desk.pids) == []


def test_secrets_are_not_recorded_and_clones_have_them(desk):
    env = desk()
    assert "variables" not in env.parameters
    other = env.clone()
    other.reset(seed=0)
    assert does(other, "add", number=1)[0] == "total 1"
    other.close()


def test_a_server_over_http(desk):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(desk.program), str(port)],
        env={**os.environ, "PIDS": str(desk.pids)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not listens(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        env = desk(command=(), url=f"http://127.0.0.1:{port}/mcp")
        env.reset(seed=0)
        assert does(env, "add", number=2)[0] == "total 2"
        server.kill()
        server.wait()
        with pytest.raises(EnvFailure):
            does(env, "add", number=2)
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"command": ()}, "is a command or an address"),
        ({"command": (), "url": "localhost"}, "does not begin with http"),
        ({"command": "no-such-program-here"}, "cannot be started"),
        ({"command": "true"}, "is gone"),
        ({"questions": ()}, "there is no task"),
        ({"questions": [{"question": "Why?"}]}, "has no answer to compare with"),
        ({"questions": [{"answer": "x"}]}, "field 'question' is missing"),
        ({"questions": "/no/such/file"}, "cannot be read"),
        ({"scorer": "json"}, "write 'module:function'"),
        ({"scorer": "json:judge"}, "judge"),
        ({"only": ("lookup",)}, "Did you mean 'look-up'"),
        ({"finish": "add"}, "has a tool 'add' itself"),
        ({"finish": "hand in"}, "is no name for a tool"),
        ({"timeout": 0}, "must be above 0"),
    ],
)
def test_what_is_wrong_is_said(desk, given, said):
    with pytest.raises((UsageError, ServerGone), match=said):
        desk(**given)
    assert issubclass(InvalidParameter, UsageError)


def test_a_scorer_that_returns_no_score_is_told(desk):
    env = desk(scorer=lambda answer, task, uses: 3)
    env.reset(seed=0)
    with pytest.raises(UsageError, match="the scorer must return a number"):
        does(env, "answer", text="x")
