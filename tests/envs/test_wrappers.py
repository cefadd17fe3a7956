"""The wrappers: what each changes, in sums done by hand, and what it must leave alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs.check import CHECKS, Subject
from turnwise.envs.errors import InvalidParameter, ReplayDiffers, ResetNeeded, UnknownEnv
from turnwise.envs.wrappers import (
    WRAPPERS,
    Compose,
    Efficacy,
    FormatReward,
    NoisyReward,
    RepeatPenalty,
    Replay,
    ToolReward,
    TurnBudget,
    call_reward,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "compose": {"length": 2},
    "efficacy": {},
    "format_reward": {"bonus": 0.2, "think": True},
    "noisy_reward": {"p": 0.1},
    "repeat_penalty": {"penalty": 0.3},
    "tool_reward": {},
    "turn_budget": {"schedule": ((0, 12), (10, 6))},
}
INNER = ("HigherLower-v1", "Sokoban-v1")


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_wrapper_keeps_the_contract(name: str, inner: str) -> None:
    assert SETTINGS.keys() == WRAPPERS.keys()
    subject = Subject("Wrapped-v1", {"inner": inner, "wrappers": [{"name": name, **SETTINGS[name]}]})
    for check in CHECKS.keys() - {"processes"}:  # the conformance suite starts a process for Wrapped-v1
        CHECKS[check](subject)


def test_without_a_wrapper_the_episodes_are_the_inner_environments_byte_by_byte() -> None:
    parameters = {"boxes": 2, "size": 7}
    plain = tw.make("Sokoban-v1", **parameters)
    wrapped = tw.make("Wrapped-v1", inner="Sokoban-v1", inner_parameters=parameters)
    rng = np.random.default_rng(0)
    assert plain.reset(seed=3) == wrapped.reset(seed=3)
    assert plain.messages("x") == wrapped.messages("x")
    for _ in range(30):
        action = plain.sample_action(rng)
        one, other = plain.step(action), wrapped.step(action)
        assert one[:4] == other[:4]
        assert one[4].items() <= other[4].items()


def test_what_every_environment_has_is_passed_on_and_read_back() -> None:
    env = RepeatPenalty(inner="Sokoban-v1", format="react", max_turns=5, system_prompt=False)
    assert (env.env.format, env.env.max_turns, env.env.system_prompt) == ("react", 5, False)
    assert (env.split, RepeatPenalty(inner="Sokoban-v1").max_turns) == ("train", 30)


def test_a_wrapped_episode_is_branched_with_new_luck_inside() -> None:
    env = RepeatPenalty(inner="FrozenLake-v1", inner_parameters={"slip": 0.5})
    env.reset(seed=0)
    env.np_random = np.random.default_rng(7)
    assert env.env.np_random is env.np_random
    assert env.np_random.random() == np.random.default_rng(7).random()


def test_a_call_repeated_in_the_same_state_costs_and_elsewhere_does_not(tmp_path: Path) -> None:
    # Right and left lead back into the corner, where right is then a repeat, and left beside it another.
    circle, ahead = ("right", "left", "right", "left"), ("right", "right", "right")
    for within, way, expected in (
        ("state", circle, [0, 0, -0.25, -0.25]),
        ("state", ahead, [0, 0, 0]),
        ("episode", circle, [0, 0, -0.25, -0.25]),
        ("episode", ahead, [0, -0.25, -0.25]),
    ):
        env = _sokoban(RepeatPenalty, tmp_path, penalty=0.25, within=within)
        assert [_paid(env, f"move[{direction}]") for direction in way] == expected
    assert [_paid(env, "nonsense") for _ in range(2)] == [0, 0]
    env = _sokoban(RepeatPenalty, tmp_path, reward="outcome")
    assert [env.step("move[up]")[1] for _ in range(3)] == [0, 0, 0]


ROOM = "; 0\n######\n#@   #\n# $. #\n#    #\n######\n"


def _sokoban(cls: type[Any], folder: Path, **parameters: Any) -> Any:
    """The wrapper around one room, in the split that folders of that name give."""
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train" / "room.txt").write_text(ROOM)
    env = cls(inner="Sokoban-v1", inner_parameters={"levels": str(folder)}, format="bracket", **parameters)
    env.reset(seed=0)
    return env


def _paid(env: Any, action: str) -> float:
    """What the wrapper adds: the reward without what the room's potential gives."""
    _, reward, _, _, info = env.step(action)
    return round(reward - info["shaping"] - info.get("inner_score", 0.0), 9)


def test_efficacy_counts_the_actions_that_changed_the_state(tmp_path: Path) -> None:
    env = _sokoban(Efficacy, tmp_path, reward="outcome")
    # Up is a wall, nonsense is no call, down and right push the box home: 2 of 4.
    ends = [env.step(a) for a in ("move[up]", "nonsense", "move[down]", "move[right]")]
    assert [e[1] for e in ends] == [0.0, 0.0, 0.0, 0.5]
    assert (ends[-1][4]["score"], ends[-1][4]["inner_score"], ends[-1][4]["success"]) == (0.5, 1.0, True)
    # Where the reward is paid by step, the last turn pays 1 and takes half of the outcome back.
    env = _sokoban(Efficacy, tmp_path)
    ends = [env.step(a) for a in ("move[up]", "nonsense", "move[down]", "move[right]")]
    assert ends[-1][1] - ends[-1][4]["shaping"] == pytest.approx(0.5)


def test_an_invalid_action_is_not_effective_where_the_key_is_made_from_the_answer() -> None:
    class Echo(tw.TurnEnv):
        """Counts to three."""

        def start(self, task: tw.Task, rng: np.random.Generator) -> str:
            self.count = 0
            return "0"

        @tw.tool
        def add(self) -> tw.Outcome:
            """Add one."""
            self.count += 1
            return tw.Outcome(str(self.count), success=self.count == 3 or None)

    tw.register("Echo-v0", Echo)
    env = Efficacy(inner="Echo-v0", format="bracket", reward="outcome")
    env.reset(seed=0)
    ends = [env.step(a) for a in ("what?", "add[]", "add[]", "why?", "add[]")]
    assert ends[-1][1] == 3 / 5


def test_noise_flips_a_share_p_of_the_outcomes_each_episode_by_itself_and_the_same_one_always_alike() -> None:
    def play(seed: int, guesses: list[int], **parameters: Any) -> Any:
        env = NoisyReward(inner="HigherLower-v1", format="bracket", max_turns=2, **parameters)
        env.reset(seed=seed)
        for guess in guesses:
            end = env.step(f"guess[{guess}]")
        return end

    plays = [(seed, [-seed - 1, -i - 1]) for seed in range(40) for i in range(25)]
    ends = [play(*p, p=0.3) for p in plays]
    flipped = [e[4]["score"] != e[4]["inner_score"] for e in ends]
    assert abs(sum(flipped) - 300) < 4 * (1000 * 0.3 * 0.7) ** 0.5
    assert all(
        e[4]["success"] is f and e[4]["inner_success"] is False for e, f in zip(ends, flipped, strict=True)
    )
    # Within the group of one seed some are flipped and some are not.
    assert all(0 < sum(flipped[25 * s : 25 * s + 25]) < 25 for s in range(40))
    assert [play(*p, p=0.3)[4]["score"] for p in plays[:30]] == [e[4]["score"] for e in ends[:30]]
    assert {play(*p, p=1.0)[1] for p in plays[:5]} != {play(*p, p=0.0)[1] for p in plays[:5]}
    for p in plays[:5]:
        # Paid by step, a flip of 0 adds exactly 1 to the last turn; as outcome it is all that is paid.
        assert play(*p, p=1.0)[1] == pytest.approx(play(*p, p=0.0)[1] + 1.0)
        assert play(*p, p=1.0, reward="outcome")[1] == 1.0


def test_the_form_is_paid_for_a_call_that_fits_and_for_the_thought_before_it() -> None:
    def paid(action: str, **parameters: Any) -> float:
        env = FormatReward(inner="HigherLower-v1", format="bracket", bonus=0.25, penalty=0.5, **parameters)
        env.reset(seed=0)
        _, reward, _, _, info = env.step(action)
        return round(reward - info["shaping"], 9)

    assert paid("guess[-5]") == 0.25
    for wrong in ("", "five", "guess[five]", "guess[1, 2]", "shout[5]"):
        assert paid(wrong) == -0.5
    assert paid("<think>low</think> guess[-5]", think=True) == 0.25
    for wrong in (
        "guess[-5]",
        "<think> </think>guess[-5]",
        "guess[-5]<think>low</think>",
        "<think>low guess[-5]",
        "<think>a</think><think>b</think>guess[-5]",
        "<think>low</think> five",
    ):
        assert paid(wrong, think=True) == -0.5
    assert paid("guess[-5]", reward="outcome") == 0.0


@pytest.mark.parametrize(
    ("call", "reference", "expected"),
    [
        # All right: format 1, and 6 (1 + 1 + 2) / 4 - 3 = 3.
        (tw.Call("f", {"a": 1, "b": 2}), tw.Call("f", {"a": 1, "b": 2}), 4.0),
        # One of two values right: 1 + 6 (1 + 1 + 1) / 4 - 3 = 2.5.
        (tw.Call("f", {"a": 1, "b": 9}), tw.Call("f", {"a": 1, "b": 2}), 2.5),
        # One of three names in common, and its value right: 1 + 6 (1 + 1/3 + 1) / 4 - 3 = 1.5.
        (tw.Call("f", {"a": 1, "c": 2}), tw.Call("f", {"a": 1, "b": 2}), 1.5),
        # No parameters at all: 1 + 6 (1 + 1 + 0) / 2 - 3.
        (tw.Call("f", {}), tw.Call("f", {}), 4.0),
        # None given of one: 1 + 6 (1 + 0 + 0) / 3 - 3.
        (tw.Call("f", {}), tw.Call("f", {"a": 1}), 0.0),
        (tw.Call("g", {"a": 1, "b": 2}), tw.Call("f", {"a": 1, "b": 2}), -2.0),
        (None, tw.Call("f", {"a": 1}), -3.0),
    ],
)
def test_a_call_is_paid_by_its_parts(call: tw.Call | None, reference: tw.Call, expected: float) -> None:
    assert call_reward(call, reference) == pytest.approx(expected)


def test_the_reference_is_the_experts_call_in_the_state_the_agent_is_in() -> None:
    env = ToolReward(inner="HigherLower-v1", format="bracket", weight=0.5)
    env.reset(seed=0)
    assert env.env.hidden > 0  # type: ignore[attr-defined]
    for action, parts in (("guess[0]", 1.0 + 6 * 2 / 3 - 3), ("guess[50]", 4.0), ("nonsense", -3.0)):
        _, reward, _, _, info = env.step(action)
        assert reward - info["shaping"] == pytest.approx(0.5 * parts + info.get("inner_score", 0.0))


def test_a_chain_goes_on_where_a_task_is_solved_and_pays_once() -> None:
    env = Compose(inner="HigherLower-v1", format="bracket", length=3, inner_parameters={"max_turns": 7})
    observation, info = env.reset(seed=4)
    assert env.max_turns == 21
    assert "You have 21 turns." in env.messages(observation)[0]["content"]
    assert observation == "Task 1 of 3.\nI think of a number from 1 to 100."
    assert env.task is not None
    assert env.task.data["tasks"] == ("train-12", "train-13", "train-14")
    for solved in range(3):
        assert env.env.task is not None
        assert (env.env.task.id, env.state_key()[0]) == (env.task.data["tasks"][solved], solved)  # type: ignore[index]
        _, reward, terminated, truncated, _ = env.step("guess[0]")
        assert (reward, terminated, truncated) == (0.0, False, False)
        observation, reward, terminated, _, info = env.step(f"guess[{env.env.hidden}]")  # type: ignore[attr-defined]
        if solved < 2:
            assert (reward, terminated) == (0.0, False)
            assert observation == f"Right.\n\nTask {solved + 2} of 3.\nI think of a number from 1 to 100."
    assert (reward, terminated, info["score"], info["success"], info["turn"]) == (1.0, True, 1.0, True, 6)
    with pytest.raises(ResetNeeded):
        env.step("guess[0]")


def test_a_chain_ends_unpaid_where_a_task_fails_or_turns_run_out() -> None:
    env = Compose(inner="HigherLower-v1", format="bracket", inner_parameters={"max_turns": 2})
    env.reset(seed=0)
    env.step(f"guess[{env.env.hidden}]")  # type: ignore[attr-defined]
    env.step("guess[0]")
    _, reward, terminated, truncated, info = env.step("guess[0]")
    assert (reward, terminated, truncated, info["success"], info["turn"]) == (0.0, False, True, False, 3)
    # The whole has a limit too: the first task is solved in the last turn, so nothing more is begun that can be solved.
    env = Compose(inner="HigherLower-v1", format="bracket", max_turns=1)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(f"guess[{env.env.hidden}]")  # type: ignore[attr-defined]
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    # A hole of the lake ends a task, and with it the chain.
    env = Compose(inner="FrozenLake-v1", format="bracket")
    rng = np.random.default_rng(0)
    for seed in range(20):
        env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            _, reward, terminated, truncated, info = env.step(env.sample_action(rng))
        assert reward == info["score"] == float(info["success"]) == float(env.solved == 2)


def test_a_chain_longer_than_its_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="length=2"):
        _sokoban(Compose, tmp_path)


def test_the_budget_follows_the_schedule_and_the_agent_is_told() -> None:
    env = TurnBudget(inner="HigherLower-v1", schedule=((0, 6), (10, 4), (20, 2)))
    for step, turns in ((0, 6), (9, 6), (10, 4), (19, 4), (20, 2), (500, 2)):
        there = env.at_step(step)
        assert there.max_turns == turns
        assert f"You have {turns} turns." in there.messages("x")[0]["content"]
        there.reset(seed=0)
        ends = [there.step("nonsense")[3] for _ in range(turns)]
        assert ends == [False] * (turns - 1) + [True]
        assert there.rollout(lambda _: "nonsense", 1).trajectories[0].env_kwargs["training_step"] == step
    assert TurnBudget(inner="HigherLower-v1", schedule=((0, 99),)).max_turns == 8
    both = tw.make(
        "Wrapped-v1", wrappers=[{"name": "turn_budget", "schedule": [[0, 6], [5, 3]]}, {"name": "efficacy"}]
    )
    assert (both.max_turns, both.at_step(4).max_turns, both.at_step(5).max_turns) == (6, 6, 3)
    deep = RepeatPenalty(inner="Wrapped-v1", inner_parameters=both.parameters)
    assert deep.at_step(5).max_turns == 3
    assert deep.at_step(5).clone().max_turns == 3
    plain = tw.make("Wrapped-v1", wrappers=[{"name": "efficacy"}])
    assert plain.at_step(5) is plain


@pytest.mark.parametrize("schedule", [((0, 6), (10, 4), (20, 8)), (), ((1, 5),), ((0, 5), (0, 4)), ((0, 0),)])
def test_a_schedule_that_goes_both_ways_or_is_none_is_refused(schedule: Any) -> None:
    with pytest.raises(InvalidParameter, match="schedule"):
        TurnBudget(inner="HigherLower-v1", schedule=schedule)


def test_schedules_of_opposite_directions_are_refused_inside_each_other() -> None:
    down, up = [[0, 6], [10, 4]], [[0, 4], [10, 6]]
    for inner, outer in ((down, up), (up, down)):
        with pytest.raises(InvalidParameter, match="opposite way"):
            tw.make(
                "Wrapped-v1",
                wrappers=[
                    {"name": "turn_budget", "schedule": inner},
                    {"name": "efficacy"},
                    {"name": "turn_budget", "schedule": outer},
                ],
            )


def test_what_needs_an_expert_is_refused_without_one() -> None:
    class Mute(tw.TurnEnv):
        """Nobody knows."""

        def start(self, task: tw.Task, rng: np.random.Generator) -> str:
            return "?"

        @tw.tool
        def wait(self) -> str:
            """Wait."""
            return "?"

    tw.register("Mute-v0", Mute)
    with pytest.raises(InvalidParameter, match="Mute-v0 has no expert"):
        tw.make("Wrapped-v1", inner="Mute-v0", wrappers=[{"name": "efficacy"}, {"name": "tool_reward"}])


def test_the_stages_of_an_evaluation_are_the_inner_environments() -> None:
    env = RepeatPenalty(inner="WebShop-v1", inner_parameters={"products": 50})
    assert list(env.stages) == list(tw.envs.env_class("WebShop-v1").stages) != []


def test_wrappers_stack_from_the_inside_out() -> None:
    env = tw.make(
        "Wrapped-v1",
        format="bracket",
        wrappers=[{"name": "efficacy"}, {"name": "noisy_reward", "p": 1.0}],
    )
    env.reset(seed=0)
    env.step("nonsense")
    end = env.step(f"guess[{env.env.env.env.env.hidden}]")  # type: ignore[attr-defined]
    assert (end[4]["score"], end[4]["success"]) == (0.5, False)  # 1 of 2 effective, then 1 - 0.5
    assert pickle.loads(pickle.dumps(env)).tools.keys() == env.tools.keys()


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"inner": "Sokobann-v1"}, UnknownEnv, "Sokoban-v1"),
        ({"inner_parameters": {"sise": 3}}, InvalidParameter, "sise"),
        ({"wrappers": [{"name": "repeat_penalti"}]}, InvalidParameter, "'repeat_penalty'"),
        ({"wrappers": [{"name": "repeat_penalty", "penalty": -1}]}, InvalidParameter, "penalty"),
        (
            {"wrappers": [{"name": "repeat_penalty", "penaltie": 1}]},
            InvalidParameter,
            "Did you mean 'penalty'",
        ),
        ({"wrappers": [{"name": "efficacy", "inner": "Maze-v1"}]}, InvalidParameter, "cannot set 'inner'"),
    ],
)
def test_a_mistake_is_named(parameters: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        tw.make("Wrapped-v1", **parameters)


@pytest.mark.parametrize("env_id", ["Sokoban-v1", "FrozenLake-v1", "Wrapped-v1"])
def test_a_recording_replays_to_the_same_observations_and_rewards(env_id: str, tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    original = tw.make(env_id, format="bracket")
    first = original.rollout(tw.agents.ExpertAgent(0.5), 6, out=str(file)).trajectories
    env = Replay(recording=file)
    names = [f"{i}:{t.task_id}" for i, t in enumerate(tw.read_trajectories(file))]
    again = env.rollout(lambda talk: talk.env.recorded.action, len(names), tasks=names).trajectories
    by_task = {t.task_id: t for t in first}
    for t in again:
        was = by_task[t.task_id.partition(":")[2]]
        assert (t.status, t.score, t.success, t.system) == (was.status, was.score, was.success, was.system)
        assert t.final_observation == was.final_observation
        same = ("observation", "action", "tool", "arguments", "reward", "state_key", "invalid")
        for one, other in zip(t.turns, was.turns, strict=True):
            assert [getattr(one, n) for n in same] == [getattr(other, n) for n in same]


def test_the_tools_of_a_recording_are_those_of_the_innermost_environment(tmp_path: Path) -> None:
    tw.register("Careful-v0", RepeatPenalty, inner="Sokoban-v1", penalty=0.2)
    file = tmp_path / "episodes.jsonl"
    env = tw.make("Wrapped-v1", inner="Careful-v0", wrappers=[{"name": "efficacy"}])
    env.rollout(tw.agents.ExpertAgent(), 1, out=str(file))
    assert list(Replay(recording=file).tools) == ["move"]


def test_a_replay_needs_no_backend_and_refuses_another_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "episodes.jsonl"
    tw.make("Sokoban-v1", format="bracket").rollout(tw.agents.ExpertAgent(), 1, out=str(file))
    cls = tw.envs.env_class("Sokoban-v1")

    def gone(*_: Any, **__: Any) -> None:
        raise tw.EnvFailure("the backend is gone")

    monkeypatch.setattr(cls, "__init__", gone)
    env = Replay(recording=str(file))
    env.reset(seed=0)
    state = env.snapshot()
    with pytest.raises(ReplayDiffers, match=r"turn 0: recorded was 'move\["):
        env.step("move[sideways]")
    env.step(env.recorded.action)
    env.restore(state)
    assert env.step(env.recorded.action)[4]["turn"] == 1
    with pytest.raises(InvalidParameter, match="no file"):
        Replay(recording=str(tmp_path / "none.jsonl"))
