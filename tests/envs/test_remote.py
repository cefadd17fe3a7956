"""Environments over HTTP: the contract over the wire, and every way in which it breaks, with real servers."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import httpx
import pytest

import turnwise as tw
from turnwise.envs import remote
from turnwise.envs.check import CHECKS, Subject
from turnwise.envs.errors import InvalidParameter, UsageError
from turnwise.envs.serve import EnvServer, Limits


class Fragile(tw.TurnEnv):
    """Does what it is told, also raise and hang."""

    blocking: ClassVar[bool] = True

    def start(self, task: tw.Task, rng: Any) -> str:
        return "ready"

    @tw.tool
    def wait(self, seconds: float) -> str:
        """Wait.

        Args:
            seconds: how long.
        """
        time.sleep(seconds)
        return "waited"

    @tw.tool
    def break_down(self) -> str:
        """Raise."""
        return str(1 / 0)


WAIT, BREAK = "wait[0.01]", "break_down[]"


@contextmanager
def served(env: tw.TurnEnv | None = None, token: str = "", **limits: Any) -> Iterator[EnvServer]:
    with EnvServer(env or Fragile(format="bracket"), token=token, limits=Limits(**limits)) as server:
        yield server


def connected(server: EnvServer, **parameters: Any) -> remote.Remote:
    env = tw.make("Remote-v1", url=server.url, **parameters)
    assert isinstance(env, remote.Remote)
    return env


@pytest.fixture(scope="module")
def subjects() -> Iterator[dict[str, Subject]]:
    with served(tw.make("HigherLower-v1")) as one, served(tw.make("TicTacToe-v1")) as other:
        yield {
            "HigherLower-v1": Subject("Remote-v1", {"url": one.url}),
            "TicTacToe-v1": Subject("Remote-v1", {"url": other.url}),
        }


# `splits` asks for thousands of tasks, which one environment shows.
@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        (e, n)
        for e in ("HigherLower-v1", "TicTacToe-v1")
        for n in CHECKS
        if (e, n) != ("TicTacToe-v1", "splits")
    ],
)
def test_contract_over_the_wire(env_id: str, name: str, subjects: dict[str, Subject]) -> None:
    CHECKS[name](subjects[env_id])


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "TicTacToe-v1"])
def test_trajectories_over_the_wire_are_those_played_here(env_id: str) -> None:
    local = tw.make(env_id, format="bracket")
    with served(local) as server:
        sides = []
        for env in (local, connected(server)):
            played = env.rollout(tw.agents.ExpertAgent(0.5), 6, seed=3).trajectories
            turns = [
                [dataclasses.replace(t, agent_seconds=0, env_seconds=0) for t in p.turns] for p in played
            ]
            sides.append([dataclasses.replace(p, turns=t) for p, t in zip(played, turns, strict=True)])
        assert sides[0] == sides[1]
        assert env_id in sides[1][0].to_json()
        assert server.url not in sides[1][0].to_json()


def test_system_prompt_and_tools_are_the_served_ones() -> None:
    local = tw.make("Sokoban-v1", boxes=2, format="hermes")
    with served(local) as server:
        env = connected(server)
        observation, _ = env.reset(seed=4)
        assert observation == local.reset(seed=4)[0]
        assert env.messages(observation) == local.messages(observation)
        assert env.messages("other") == local.messages("other")
        assert {n: t.openai() for n, t in env.tools.items()} == {
            n: t.openai() for n, t in local.tools.items()
        }
        assert env.parameters == local.parameters
        with pytest.raises(InvalidParameter, match="boxes"):
            tw.make("Remote-v1", url=server.url, boxes=3)


def test_a_server_that_dies_in_an_episode_is_a_failure_that_is_retried() -> None:
    command = [sys.executable, "-m", "turnwise", "serve", "HigherLower-v1", "--set", "format=bracket"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        env = tw.make("Remote-v1", url=found[0])
        killed = False

        def agent(_messages: object) -> str:
            nonlocal killed
            if not killed:
                killed = True
                server.send_signal(signal.SIGKILL)
                server.wait()
            return "guess[1]"

        (episode,) = env.rollout(agent, 1).trajectories
        assert (episode.status, episode.attempts) == ("failed", 2)
        assert episode.error is not None and episode.error.startswith("ServerGone")
    finally:
        server.kill()
        server.communicate()


def test_an_exception_inside_is_typed_without_a_trace_and_closes_its_session() -> None:
    with served() as server:
        env = connected(server)
        env.reset(seed=0)
        with pytest.raises(remote.ServedEnvFailed, match=r"^ZeroDivisionError: division by zero$"):
            env.step(BREAK)
        assert server.sessions == 0
        env.reset(seed=0)
        assert env.step(WAIT)[0] == "waited"


def test_a_server_that_hangs_is_a_time_out() -> None:
    with served() as server:
        env = connected(server, timeout=0.3)
        env.reset(seed=0)
        with pytest.raises(remote.ServerTimeout, match=r"within 0\.3 s"):
            env.step("wait[1]")


@contextmanager
def answering(answer: Callable[[], bytes]) -> Iterator[str]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(answer())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"\0garbage", remote.ServerGone),
        (http(b"<html>"), remote.ServerGarbage),
        (http(b"[" * 100_000), remote.ServerGarbage),
        (http(b"[1]"), remote.ServerGarbage),
        (http(b'{"protocol": 1, "id": 5}'), remote.ServerGarbage),
        (http(b'{"error": {"type": "SystemExit", "message": "x"}}', "400 Bad"), remote.ServerGarbage),
        (http(b"Internal Server Error", "500 Error"), remote.ServerGone),
        (http(json.dumps({"protocol": 2}).encode()), remote.ProtocolMismatch),
    ],
)
def test_garbage_and_newer_protocols_are_typed(answer: bytes, kind: type[Exception]) -> None:
    with answering(lambda: answer) as url, pytest.raises(kind):
        tw.make("Remote-v1", url=url, timeout=5.0)


def test_a_server_refuses_another_protocol_and_what_is_no_request() -> None:
    with served() as server:
        head = {remote.HEADER: "1"}
        for body, headers, status, kind in [
            (b"{}", {remote.HEADER: "2"}, 426, "ProtocolMismatch"),
            (b"{", head, 400, "BadRequest"),
            (b"[" * 100_000, head, 400, "BadRequest"),
            (b'{"parameters": {"high": 5}}', head, 400, "InvalidParameter"),
        ]:
            found = httpx.post(f"{server.url}/handshake", content=body, headers=headers)
            assert (found.status_code, found.json()["error"]["type"]) == (status, kind)
        found = httpx.post(f"{server.url}/handshake", content=b"{}", headers={**head, "host": "evil.example"})
        assert found.status_code == 400


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_never_closes_loses_session_and_snapshot_when_idle() -> None:
    with served(idle=0.4) as server:
        env = connected(server)
        env.reset(seed=0)
        state = env.snapshot()
        assert (server.sessions, server.snapshots) == (1, 1)
        until(lambda: server.sessions == server.snapshots == 0)
        with pytest.raises(remote.SessionGone):
            env.step(WAIT)
        with pytest.raises(remote.SnapshotGone):
            env.restore(state)


def test_what_nobody_holds_any_more_is_given_back() -> None:
    with served() as server:
        env, other = connected(server), connected(server)
        env.reset(seed=0)
        env.snapshot()
        del env
        gc.collect()
        other.reset(seed=0)
        assert (server.sessions, server.snapshots) == (1, 0)
        other.close()
        assert server.sessions == 0


def test_a_second_client_of_a_session_is_refused_and_the_first_goes_on() -> None:
    with served() as server:
        env, thief = connected(server), connected(server)
        env.reset(seed=0)
        assert env._session is not None
        thief._session = remote._Session(thief._server, env._session.name)
        with pytest.raises(remote.SessionBusy, match="another client"):
            thief.step(WAIT)
        results: list[str] = []
        thread = threading.Thread(target=lambda: results.append(env.step("wait[0.5]")[0]))
        thread.start()
        until(lambda: any(s.busy for s in server._sessions.values()))
        thief._session = remote._Session(thief._server, env._session.name)
        with pytest.raises(remote.SessionBusy, match="in the middle"):
            thief.step(WAIT)
        thread.join()
        assert results == ["waited"]
        assert env.step(WAIT)[0] == "waited"


def test_oversized_actions_are_refused_on_both_sides() -> None:
    with served(message=4096) as server:
        env = connected(server)
        env.reset(seed=0)
        with pytest.raises(remote.MessageTooLong, match="4096"):
            env.step("x" * 5000)
        found = httpx.post(f"{server.url}/open", content=b" " * 5000, headers={remote.HEADER: "1"})
        assert (found.status_code, found.json()["error"]["type"]) == (413, "MessageTooLong")


def test_sessions_and_snapshots_are_bounded() -> None:
    with served(sessions=2, snapshots=2) as server:
        envs = [connected(server) for _ in range(3)]
        envs[0].reset(seed=0)
        envs[1].reset(seed=0)
        with pytest.raises(remote.ServerFull, match="2 sessions"):
            envs[2].reset(seed=0)
        held = [envs[0].snapshot(), envs[1].snapshot()]
        with pytest.raises(remote.ServerFull, match="2 snapshots"):
            envs[0].snapshot()
        assert len(held) == server.snapshots == 2
        assert envs[0].step(WAIT)[0] == "waited"


def test_a_token_is_asked_for_and_never_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(remote.TOKEN, raising=False)
    with served(token="secret") as server:
        for given in ({}, {"token": "wrong"}):
            with pytest.raises(remote.TokenRefused):
                connected(server, **given)
        env = connected(server, token="secret")
        assert "secret" not in env.rollout(lambda _: WAIT, 1, max_turns=1).trajectories[0].to_json()
        monkeypatch.setenv(remote.TOKEN, "secret")
        assert connected(server).reset(seed=0)[0] == "ready"


def test_a_host_that_others_reach_needs_a_token() -> None:
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(UsageError, match="token"):
            EnvServer(Fragile(), host=host)


def test_an_address_is_needed() -> None:
    with pytest.raises(InvalidParameter, match="turnwise serve"):
        tw.make("Remote-v1")
    assert "Remote-v1" not in tw.env_ids()
