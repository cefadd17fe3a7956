"""The verl backend without Ray: rows, agent loop, estimator, loss, process rewards and checks, each beside the local trainer."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
import torch

import turnwise as tw
from turnwise.agents.local import LocalAgent
from turnwise.configs.schema import LossSection, TrainConfig
from turnwise.envs.errors import EnvFailure, UsageError
from turnwise.envs.rollout import Job, agent_seed, collect, run_async
from turnwise.trainers import credit, start
from turnwise.trainers.collate import collate
from turnwise.trainers.local import model as models
from turnwise.trainers.local.update import TokenBatch, log_probs_of, update
from turnwise.trainers.losses import weights

if importlib.util.find_spec("verl") is None or importlib.util.find_spec("ray") is None:
    if os.environ.get("CI") == "true":
        pytest.fail("verl is not installed: pip install 'turnwise[verl]'", pytrace=False)
    pytest.skip("verl is not installed: pip install 'turnwise[verl]'", allow_module_level=True)

# verl and what it imports warn of engines that are not installed.
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = {
    "env": {"id": "HigherLower-v1", "parameters": {"high": 7, "max_turns": 4}},
    "model": {"size": "xs", "max_context": 128, "warm_up": {"episodes": 400, "epochs": 2}},
    "trainer": {
        "name": "verl",
        "device": "cpu",
        "steps": 2,
        "tasks_per_step": 3,
        "group_size": 4,
        "minibatches": 1,
        "loggers": [],
    },
}


def changed(**changes) -> TrainConfig:
    data = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            data.setdefault(section, {})[name] = value
        else:
            data[section] = value
    return TrainConfig.model_validate(data)


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """What `start.prepare` sets is gone afterwards, and verl is imported as a run would import it."""
    before = dict(os.environ)
    os.environ["TURNWISE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    start.prepare("cpu")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def env():
    return tw.make("HigherLower-v1", high=7, max_turns=4, format="bracket", system_prompt=False)


@pytest.fixture(scope="module")
def source(environment, env):
    return models.find(changed().model, env, seed=0, say=str)


@pytest.fixture(scope="module")
def loaded(source):
    model, tokenizer = models.load(source, changed().model, device=torch.device("cpu"), seed=0)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def played(env, loaded):
    """Twelve episodes in three groups, as the local trainer samples them."""
    agent = LocalAgent(*loaded, max_new_tokens=16, max_context=128)
    jobs = [
        Job(agent_seed(0, 1, 0, "task", g) % 2**31, None, "train", g, s) for g in range(3) for s in range(4)
    ]
    return run_async(collect(env, agent, jobs, seed=agent_seed(0, 1, 0))).trajectories


def copies(trajectories):
    return [tw.Trajectory.from_json(t.to_json()) for t in trajectories]


def failed(trajectory):
    (broken,) = copies([trajectory])
    broken.status, broken.turns, broken.score, broken.error = "failed", [], 0.0, "EnvFailure: gone"
    return broken


# rows


def test_an_episode_comes_back_from_its_row_token_for_token(played):
    from turnwise.trainers.verl import rows

    for t in played:
        row = rows.to_row(t, pad=0)
        assert "action_ids" in row.record["episode"] and '"action_ids":[]' in row.record["episode"]
        tensors = (torch.tensor(row.prompt_ids), torch.tensor(row.response_ids))
        again = rows.to_trajectory(
            json.loads(json.dumps(row.record)), *tensors, torch.tensor(row.log_probs, dtype=torch.float32)
        )
        assert again == t
        assert sum(row.rewards) == pytest.approx(t.total_reward)
        ends = [i for i, m in enumerate(row.response_mask) if m and not [*row.response_mask, 0][i + 1]]
        assert [row.rewards[i] for i in ends] == [turn.reward for turn in t.turns]


def test_a_failed_episode_is_a_row_that_nothing_is_learned_from(played):
    from turnwise.trainers.verl import rows

    broken = failed(played[0])
    row = rows.to_row(broken, pad=5)
    assert (row.prompt_ids, row.response_ids, row.response_mask) == ([5], [5], [0])
    empty = torch.zeros(1, dtype=torch.int64)
    assert rows.to_trajectory(row.record, empty, empty, torch.zeros(1)) == broken


def advantages_of(trajectories, records, scheme="gigpo"):
    """What each (task, sample) gets, through the trainer's own sorting."""
    from turnwise.trainers.verl.trainer import sorted_episodes

    episodes = sorted_episodes(records, trajectories)
    batch = collate(episodes.trajectories)
    found = credit.compute(scheme, batch)
    keys = [(records[i]["index"], records[i]["sample"]) for i in episodes.at]
    return {
        key: row[: len(t.turns)].tolist()
        for key, row, t in zip(keys, found, episodes.trajectories, strict=True)
    }


@pytest.mark.parametrize("scheme", ["gigpo", "grpo", "rloo", "step_grpo", "salt"])
def test_neither_order_nor_padding_changes_an_advantage(played, scheme):
    records = [{"index": 40 + i // 4, "sample": i % 4} for i in range(12)]
    plain = advantages_of(copies(played), records, scheme)
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()
    again = advantages_of([copies(played)[i] for i in shuffled], [records[i] for i in shuffled], scheme)
    padded = [*copies(played)[:5], None, *copies(played)[5:], None, None]
    with_padding = advantages_of(padded, [*records[:5], None, *records[5:], None, None], scheme)
    assert plain == again == with_padding


def test_the_weights_of_a_minibatch_are_those_of_the_local_trainer_on_any_number_of_ranks(played):
    from turnwise.trainers.verl.trainer import loss_weights, minibatch_of_row

    assert minibatch_of_row(8, 1, 4) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert minibatch_of_row(8, 2, 4) == [0, 0, 1, 1, 0, 0, 1, 1]
    trajectories = copies(played)
    trajectories[3] = failed(trajectories[3])
    batch = collate(trajectories)
    for how in (
        "token-mean",
        "seq-mean-token-mean",
        "seq-mean-token-sum",
        "seq-mean-token-sum-norm",
        "turn-mean",
    ):
        config = changed(loss__aggregation=how)
        of = minibatch_of_row(12, 2, 6)
        found = loss_weights(batch, batch.valid, of, config)
        for number in (0, 1):
            chosen = [i for i in range(12) if of[i] == number]
            mask = batch.action_mask[chosen] & batch.valid[chosen, None]
            expected = weights(mask, batch.turn_of_token[chosen], how, length=128)
            assert torch.equal(found[chosen], expected)
        assert not found[3].any()


# estimator


def test_advantages_pass_verls_own_compute_advantage_unchanged(played):
    import numpy as np
    from verl.protocol import DataProto
    from verl.trainer.ppo.ray_trainer import compute_advantage

    from turnwise.trainers.verl import advantages, rows

    batch = collate(copies(played))
    on_tokens = credit.spread(credit.compute("gigpo", batch), batch).float()
    given = rows.responses(on_tokens, played)
    masks = [torch.tensor(rows.to_row(t, pad=0).response_mask) for t in played]
    width = max(map(len, masks)) + 3
    mask = torch.stack([torch.nn.functional.pad(m, (0, width - len(m))) for m in masks])
    data = DataProto.from_dict(
        tensors={"token_level_rewards": torch.zeros(mask.shape), "response_mask": mask},
        non_tensors={"uid": np.array([t.group for t in played], dtype=object)},
    )
    with advantages.given(given):
        found = compute_advantage(data, adv_estimator=advantages.NAME, config=None).batch["advantages"]
    for row, value, m in zip(found, given, masks, strict=True):
        assert torch.equal(row[: len(m)], value * m) and not row[len(m) :].any()


# loss: verl's own engine on one process


@pytest.fixture(scope="module")
def worker(source, environment):
    """verl's training worker in this process, with the policy's weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RAY_LOCAL_WORLD_SIZE": "1",
    }
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import TrainingWorkerConfig

    from turnwise.trainers.verl import settings
    from turnwise.trainers.verl.cpu import CpuTrainingWorker

    composed = settings.compose(changed(), source=source, folder=Path("unused"), imports=())
    section = composed.actor_rollout_ref
    actor = omega_conf_to_dataclass(section.actor)
    actor.engine.use_dynamic_bsz = True
    actor.engine.infer_max_token_len_per_gpu = actor.engine.max_token_len_per_gpu = 300
    worker = CpuTrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=omega_conf_to_dataclass(section.model),
            engine_config=actor.engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    worker.reset()
    yield worker
    torch.distributed.destroy_process_group()


def stored(trajectories, columns):
    """What verl's store would hand a worker: rows without padding, and further columns on the response."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    from turnwise.trainers.verl import rows
    from turnwise.trainers.verl.process_rewards import _nested

    laid = [rows.to_row(t, pad=0) for t in trajectories]
    prompts = [torch.tensor(r.prompt_ids) for r in laid]
    answers = [torch.tensor(r.response_ids) for r in laid]
    inputs = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    masks = [torch.tensor(r.response_mask) for r in laid]
    data = TensorDict(
        {
            "prompts": _nested(prompts),
            "responses": _nested(answers),
            "input_ids": _nested(inputs),
            "position_ids": _nested([torch.arange(len(i)) for i in inputs]),
            "response_mask": _nested(masks),
            "loss_mask": _nested(masks),
            **{name: _nested(values) for name, values in columns.items()},
        },
        batch_size=len(laid),
    )
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=200,  # several micro-batches
        use_remove_padding=False,
        global_batch_size=len(laid),
    )
    return data


def gradient(worker, data, loss):
    from verl.utils import tensordict_utils as tu

    tu.assign_non_tensor(data, calculate_entropy=bool(loss.keywords["loss"].entropy_coefficient))
    engine = worker.engine
    with engine.train_mode():
        engine.optimizer_zero_grad()
        out = engine.forward_backward_batch(data, loss, forward_only=False)
        found = {
            n: p.grad.full_tensor().clone() for n, p in engine.module.named_parameters() if p.grad is not None
        }
    return float(sum(out["loss"])), found, out["metrics"]


@pytest.mark.parametrize(
    "loss",
    [
        {"kl_coefficient": 0.0},
        {"kl_coefficient": 0.1, "kl": "k3", "entropy_coefficient": 0.01},
        {"kl_coefficient": 0.0, "ratio": "turn", "aggregation": "turn-mean"},
        {"kl_coefficient": 0.05, "ratio": "sequence", "aggregation": "seq-mean-token-mean", "dual_clip": 3.0},
    ],
    ids=["clip", "kl-entropy", "turn", "sequence"],
)
def test_the_same_trajectories_give_the_loss_and_gradient_of_the_local_trainer(loss, loaded, played, worker):
    """To 1e-5 in float32, with policies that have moved since sampling, through verl's own FSDP2 engine."""
    from functools import partial

    from turnwise.trainers.verl import rows
    from turnwise.trainers.verl.loss import TURN, WEIGHT, turnwise_loss
    from turnwise.trainers.verl.trainer import loss_weights

    section = LossSection(**loss)
    batch = collate(copies(played))
    noise = torch.Generator().manual_seed(1)
    old = batch.log_probs + 0.3 * torch.randn(batch.log_probs.shape, generator=noise)
    reference = batch.log_probs + 0.3 * torch.randn(batch.log_probs.shape, generator=noise)
    on_tokens = credit.spread(credit.compute("gigpo", batch), batch).float()

    model, _ = loaded
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    ours = update(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        TokenBatch(batch.tokens, batch.action_mask, batch.turn_of_token, old, on_tokens, reference),
        section,
        token_budget=300,
        max_grad_norm=1e9,
        length=128,
    )
    expected = {n: before[n] - p.detach() for n, p in model.named_parameters()}
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(before[n])

    config = TrainConfig.model_validate({**CONFIG, "loss": loss})
    share = loss_weights(batch, batch.valid, [0] * 12, config)
    columns = {
        WEIGHT: rows.responses(share, played),
        TURN: rows.responses(batch.turn_of_token.clamp(min=0), played),
        "old_log_probs": rows.responses(old, played),
        "ref_log_prob": rows.responses(reference, played),
        "advantages": rows.responses(on_tokens, played),
    }
    total, found, metrics = gradient(worker, stored(played, columns), partial(turnwise_loss, loss=section))
    assert total == pytest.approx(ours["loss"], abs=1e-5)
    assert found.keys() >= expected.keys()
    assert max(float((found[n] - expected[n]).abs().max()) for n in expected) < 1e-5
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    tokens = sum(metrics["sum/tokens"].values)
    if (
        section.kl_coefficient
    ):  # without it the local trainer leaves out rows without a signal, also of the metrics
        assert sum(metrics["sum/ratio"].values) / tokens == pytest.approx(ours["ratio_mean"], abs=1e-5)
        assert sum(metrics["sum/clip_high"].values) / tokens == pytest.approx(ours["clip_high"], abs=1e-6)
        assert sum(metrics["sum/kl"].values) / tokens == pytest.approx(ours["kl"], abs=1e-5)


class Group:
    """A worker group of one worker, called in this process."""

    def __init__(self, worker):
        self.worker = worker
        self._dispatch_info = {"train": [0]}

    def infer_batch(self, data):
        return self.worker.infer_batch(data)

    def train_mini_batch(self, data):
        out = self.worker.train_mini_batch(data)
        return type("Future", (), {"get": staticmethod(lambda: out)})


def test_the_worker_scores_probes_as_the_local_scorer_does(loaded, played, worker):
    from turnwise.trainers.rewards.scoring import Probe, forced_log_probs
    from turnwise.trainers.verl.process_rewards import TokenWorkers, WorkerScorer

    contexts = [[i for turn in t.turns for i in (*turn.prompt_ids, *turn.action_ids)] for t in played[:4]]
    probes = [[Probe(end, (7, 9, 11), 1) for end in (3, len(c) - 2)] for c in contexts]
    ours = forced_log_probs(loaded[0], contexts, probes, method="plain", temperature=0.7)
    scorer = WorkerScorer(TokenWorkers(Group(worker), mesh="train", infer="infer_batch"), 0.7)
    found = run_async(scorer.log_probs(contexts, probes))
    flat = [v for own in found for probe in own for v in probe]
    assert flat == pytest.approx([v for own in ours for probe in own for v in probe], abs=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "ce"])
def test_the_process_reward_model_learns_what_the_local_one_learns(objective, env, loaded, played, worker):
    """Its rewards before and after one update, with pairs over whole groups and micro-batches that cut them."""
    from turnwise.trainers.rewards import Models
    from turnwise.trainers.rewards.implicit_prm import ImplicitPRM
    from turnwise.trainers.verl.process_rewards import TokenWorkers, WorkerPRM, coefficient_loss

    trajectories = copies(played)
    for i, t in enumerate(trajectories):
        t.success = i % 3 == 0
    batch = collate(trajectories)
    parameters = {"objective": objective, "lr": 1e-3, "beta": 0.5, "update": "after"}
    local, remote = ImplicitPRM(**parameters), WorkerPRM(**parameters)
    of_run = Models(env=env, policy=loaded[0], tokenizer=loaded[1], token_budget=200, max_context=128)
    keep = {n: p.full_tensor().clone() for n, p in worker.engine.module.state_dict().items()}
    worker.set_loss_fn(coefficient_loss)
    worker.engine.optimizer.state.clear()
    for group in worker.engine.optimizer.param_groups:
        group |= {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.0, "initial_lr": 1e-3}
    worker.engine.optimizer_config.clip_grad = 10.0
    remote.workers = TokenWorkers(Group(worker), mesh="train", infer="infer_batch")
    try:
        before = [run_async(s.score(trajectories, of_run)) for s in (local, remote)]
        learned = [s.update(trajectories, batch, of_run) for s in (local, remote)]
        after = [run_async(s.score(trajectories, of_run)) for s in (local, remote)]
    finally:
        from verl.utils.fsdp_utils import fsdp2_load_full_state_dict

        fsdp2_load_full_state_dict(worker.engine.module, keep, worker.engine.device_mesh, None)
    assert learned[0].keys() == learned[1].keys()
    for name, value in learned[0].items():
        if name == "accuracy":
            continue  # before the first step every log-ratio is rounding, and so is its sign
        assert learned[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for ours, theirs in (before, after):
        for a, b in zip(ours, theirs, strict=True):
            assert b == pytest.approx(a, abs=2e-4)
    assert (
        max(abs(x - y) for a, b in zip(before[1], after[1], strict=True) for x, y in zip(a, b, strict=True))
        > 1e-2
    )


def test_a_checkpoint_with_adapters_becomes_plain_weights(loaded, tmp_path):
    """As peft itself merges them, from the names under which verl stores them."""
    import copy

    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    from turnwise.trainers.verl.adapters import merge_folder

    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(copy.deepcopy(loaded[0]), lora)
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.1)
    tied = set(adapted.get_base_model().all_tied_weights_keys or ())
    state = {
        n: t.contiguous().clone()
        for n, t in adapted.state_dict().items()
        if n.removeprefix("base_model.model.") not in tied
    }
    save_file(state, tmp_path / "model-00001-of-00001.safetensors")
    merge_folder(tmp_path, rank=4, alpha=6)
    expected = {n: t for n, t in adapted.merge_and_unload().state_dict().items() if n not in tied}
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == expected.keys() and [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert max(float((found[n] - expected[n]).abs().max()) for n in expected) < 1e-5


# agent loop


class Client:
    """verl's client, on a rollout server in this process."""

    def __init__(self, server):
        self.server = server

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        return await self.server.generate(prompt_ids, sampling_params, request_id)


@pytest.fixture(scope="module")
def served(source, loaded):
    from turnwise.trainers.verl.cpu import RolloutServer

    server = RolloutServer(source, 128, 16, 64)
    run_async(server.load_weights(loaded[0].state_dict(), 3))
    return server


def loop(source, client, config=None, imports=()):
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap

    from turnwise.trainers.verl import settings
    from turnwise.trainers.verl.agent_loop import EpisodeLoop

    composed = settings.compose(config or changed(), source=source, folder=Path("unused"), imports=imports)
    from transformers import AutoTokenizer

    return EpisodeLoop(
        trainer_config=DictConfigWrap(composed),
        server_manager=client,
        tokenizer=AutoTokenizer.from_pretrained(source),
        processor=None,
        dataset_cls=None,
        data_config=DictConfigWrap(composed.data),
    )


def fields(item=0, sample=0, config=None):
    from omegaconf import OmegaConf

    from turnwise.trainers.verl.tasks import EnvTasks

    data = EnvTasks([], None, OmegaConf.create({"turnwise": (config or changed()).model_dump_json()}))
    return {**data[item], "session_id": sample, "global_steps": 1}


SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True}


def test_the_agent_loop_plays_the_very_episodes_of_the_local_trainer(source, served, played):
    """Same tasks, same seeds, same weights: the same tokens, and log-probs to rounding."""

    async def play():
        loops = [(loop(source, Client(served)), fields(i // 4, i % 4)) for i in range(12)]
        return await asyncio.gather(*(one.run(dict(SAMPLING), **item) for one, item in loops))

    from turnwise.trainers.verl import rows

    for output, expected in zip(run_async(play()), played, strict=True):
        stored = output.as_dict()
        record = json.loads(output.extra_fields["turnwise"])
        found = rows.to_trajectory(
            record, stored["prompts"], stored["responses"], stored["rollout_log_probs"]
        )
        assert (found.task_id, found.seed, found.status) == (expected.task_id, expected.seed, expected.status)
        assert [t.action_ids for t in found.turns] == [t.action_ids for t in expected.turns]
        assert [t.prompt_ids for t in found.turns] == [t.prompt_ids for t in expected.turns]
        assert [t.state_key for t in found.turns] == [t.state_key for t in expected.turns]
        for ours, theirs in zip(expected.turns, found.turns, strict=True):
            assert theirs.action_log_probs == pytest.approx(ours.action_log_probs, abs=1e-5)
        assert float(stored["rm_scores"].sum()) == pytest.approx(expected.total_reward)
        assert output.extra_fields["min_global_steps"] == 3


def test_the_log_probs_of_the_rollout_server_are_those_of_the_trainer(source, served, loaded):
    async def play():
        return await loop(source, Client(served)).run(dict(SAMPLING), **fields(1))

    stored = run_async(play()).as_dict()
    tokens = torch.cat([stored["prompts"], stored["responses"]])[None]
    mask = torch.cat([torch.zeros_like(stored["prompts"]), stored["response_mask"]]).bool()[None]
    expected = log_probs_of(loaded[0], tokens, mask)[0, len(stored["prompts"]) :]
    assert float((stored["rollout_log_probs"] - expected).abs().max()) < 1e-5


class Broken:
    """A rollout server that is gone."""

    calls = 0

    async def generate(self, **_):
        type(self).calls += 1
        raise ConnectionError("the rollout server is gone")


class Silent:
    """A rollout server that never answers."""

    async def generate(self, **_):
        await asyncio.sleep(3600)


@pytest.mark.parametrize(
    ("server", "error"),
    [(Broken(), "ConnectionError: the rollout server is gone"), (Silent(), "TimeoutError")],
)
def test_an_episode_whose_server_fails_is_tried_twice_and_left_out(source, server, error):
    config = changed(trainer__turn_timeout=0.2)

    async def play():
        return await loop(source, server, config).run(dict(SAMPLING), **fields(0, 0, config))

    output = run_async(play())
    record = json.loads(output.extra_fields["turnwise"])
    episode = json.loads(record["episode"])
    assert episode["status"] == "failed" and episode["error"].startswith(error) and episode["attempts"] == 2
    assert output.response_mask == [0] and record["mistake"] is None


def test_sampling_is_aborted_and_taken_up_again(served):
    """As the asynchronous trainers do: nothing is lost but the message that was being written."""

    async def go():
        params = {**SAMPLING, "stop_token_ids": [], "seed": 5}
        first = asyncio.ensure_future(served.generate([1, 2, 3], dict(params), "a"))
        await asyncio.sleep(0.01)
        await served.abort_all_requests()
        stopped = await first
        waiting = asyncio.ensure_future(served.generate([1, 2, 3], dict(params), "b"))
        await asyncio.sleep(0.02)
        held = not waiting.done()
        await served.resume_generation()
        return stopped, held, await waiting

    stopped, held, finished = run_async(go())
    assert stopped.stop_reason in ("aborted", "completed") and held
    assert finished.stop_reason == "completed" and len(finished.token_ids) == 16


def test_weights_of_another_model_are_refused_by_the_rollout_server(source):
    from turnwise.trainers.verl.cpu import RolloutServer

    server = RolloutServer(source, 128, 16, 4)
    with pytest.raises(RuntimeError, match="no weights yet"):
        run_async(server.generate([1, 2], {}, "x"))
    with pytest.raises(RuntimeError, match="do not fit the model"):
        run_async(server.load_weights({"nonsense": torch.zeros(1)}, 0))


# data


def test_the_data_set_draws_the_tasks_of_the_local_trainer_and_has_no_end():
    items = [fields(i) for i in (0, 2, 3)]
    assert [i["env_seed"] for i in items] == [
        agent_seed(0, step, 0, "task", g) % 2**31 for step, g in ((1, 0), (1, 2), (2, 0))
    ]
    assert items[2]["agent_seed"] == agent_seed(0, 2, 0)


# checks


def test_a_missing_internal_name_is_told_with_verls_version():
    from turnwise.trainers.verl import names

    names.check()
    with pytest.raises(
        UsageError, match=r"verl 0\.9\.1 has no verl\.utils\.metric\.Nothing, no verl\.nowhere"
    ):
        names.check({"verl.utils.metric": ("Metric", "Nothing"), "verl.nowhere": ("x",)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainer__filter": "informative"}, ["trainer.filter=informative", "trainer=local"]),
        ({"trainer__replay_episodes": 4}, ["trainer.replay_episodes=4"]),
        ({"trainer__minibatches": 2}, ["multiple of trainer.minibatches=2"]),
        ({"trainer__ranks_per_node": 5}, ["12 episodes", "5 ranks"]),
        ({"model__lora_rank": 8}, ["model.lora_rank", "bfloat16"]),
        ({"trainer__dtype": "bfloat16"}, ["float32"]),
        ({"verl": {"algorithm": {"adv_estimator": "gae"}}}, ["verl.algorithm.adv_estimator", "credit=NAME"]),
        ({"verl": {"algorithm": {"use_kl_in_reward": True}}}, ["loss.kl_coefficient"]),
    ],
)
def test_what_cannot_work_together_is_refused_with_the_reason(changes, words):
    from turnwise.trainers.verl import settings

    with pytest.raises(UsageError) as error:
        settings.check(changed(**changes))
    assert [word for word in words if word not in str(error.value)] == []


def test_a_gpu_that_is_not_there_is_told_with_the_way_out(monkeypatch):
    from turnwise.trainers.verl import settings

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"trainer\.device=cpu"):
        settings.check(changed(trainer__device="auto"))


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        (
            {"actor_rollout_ref": {"rollout": {"gpu_memory_utilization": 0.4}}},
            0.4,
            "actor_rollout_ref.rollout.gpu_memory_utilization",
        ),
        (
            {"actor_rollout_ref": {"model": {"override_config": {"x": 1}}}},
            1,
            "actor_rollout_ref.model.override_config.x",
        ),
    ],
)
def test_anything_of_verls_own_configuration_can_be_set(key, value, found):
    from omegaconf import OmegaConf

    from turnwise.trainers.verl import settings

    composed = settings.compose(changed(verl=key), source="m", folder=Path("f"), imports=())
    assert OmegaConf.select(composed, found) == value


def test_a_key_that_verl_does_not_have_is_told_with_the_nearest():
    from turnwise.trainers.verl import settings

    wrong = changed(verl={"actor_rollout_ref": {"rollout": {"gpu_memory_utilisation": 0.4}}})
    with pytest.raises(
        UsageError, match=r"Did you mean 'verl\.actor_rollout_ref\.rollout\.gpu_memory_utilization'"
    ):
        settings.compose(wrong, source="m", folder=Path("f"), imports=())


def test_only_verl_takes_the_options_of_a_cluster():
    with pytest.raises(ValueError, match=r"trainer\.ranks_per_node is for trainer=verl"):
        TrainConfig.model_validate({"trainer": {"name": "local", "ranks_per_node": 2}})


def test_sources_that_need_the_policy_in_this_process_are_refused(tmp_path):
    from turnwise.trainers.verl.run import train

    config = changed(reward=["env", "spa"], run=str(tmp_path / "r"))
    with pytest.raises(UsageError, match="spa"):
        train(config, say=str)
    with pytest.raises(ValueError, match="turn_gae"):
        train(changed(credit={"name": "turn_gae"}, run=str(tmp_path / "s")), say=str)


def test_an_environment_with_a_schedule_is_refused(tmp_path):
    from turnwise.trainers.verl.run import train

    wrappers = [{"name": "turn_budget", "schedule": [[0, 6], [5, 3]]}]
    env = {"id": "Wrapped-v1", "parameters": {"wrappers": wrappers}}
    with pytest.raises(UsageError, match="schedule over training steps"):
        train(changed(env=env, run=str(tmp_path / "r")), say=str)


# watchdog


def test_the_watchdog_ends_a_run_without_progress_and_says_what_it_waited_for():
    from turnwise.trainers.verl.watchdog import Stalled, Watchdog

    watchdog = Watchdog(0.4, str)
    began = time.monotonic()

    def run():
        with watchdog:
            for _ in range(3):
                watchdog.waits("step 1: episodes", time.monotonic())  # progress
                time.sleep(0.3)
            watchdog.waits("step 1: the update")
            threading.Event().wait(60)

    with pytest.raises(Stalled, match=r"while waiting for step 1: the update$"):
        run()
    assert 1.2 < time.monotonic() - began < 30


def test_a_mistake_in_an_environments_failure_type_stays_typed(source, tmp_path, served):
    """The user's own environment, loaded from a file by the process that plays."""
    file = tmp_path / "flaky_env_for_verl.py"
    file.write_text(
        "import turnwise as tw\n"
        "from turnwise.envs.errors import EnvFailure\n"
        "class DatabaseGone(EnvFailure): ...\n"
        "class Flaky(tw.TurnEnv):\n"
        '    """Fails."""\n'
        "    def start(self, task, rng):\n"
        "        raise DatabaseGone('no database')\n"
        "    @tw.tool\n"
        "    def go(self) -> tw.Outcome:\n"
        '        """Go."""\n'
        "        return tw.Outcome('gone')\n"
        "tw.register('Flaky-v0', Flaky, max_turns=2)\n"
    )
    config = changed(env={"id": "Flaky-v0"})

    async def play():
        return await loop(source, Client(served), config, (str(file),)).run(
            dict(SAMPLING), **fields(0, 0, config)
        )

    episode = json.loads(json.loads(run_async(play()).extra_fields["turnwise"])["episode"])
    assert episode["error"] == "DatabaseGone: no database" and episode["status"] == "failed"
    assert issubclass(EnvFailure, RuntimeError)
