"""The agents that need no model: random, expert, scripted, human."""

from __future__ import annotations

import asyncio
import io
import signal
from collections import Counter

import pytest
from rich.console import Console

import turnwise as tw
from turnwise.agents.human import as_action, expected
from turnwise.envs import Conversation, ProceduralTasks
from turnwise.envs.errors import UsageError

FORMATS = ["bracket", "hermes", "react", "python"]


class Shop(tw.TurnEnv):
    """A till with tools of nought, one and two parameters."""

    max_turns: int = 4

    def start(self, task, rng):
        self.log = []
        return "Welcome."

    @tw.tool
    def search(self, words: str) -> str:
        """Search."""
        self.log.append(words)
        return f"found {words}"

    @tw.tool
    def put(self, item: str, number: int) -> str:
        """Put into the basket."""
        return f"{number!r} of {item!r}"

    @tw.tool
    def pay(self) -> tw.Outcome:
        """Pay."""
        return tw.Outcome("Paid.", reward=1.0, success=True)


def conversation(env, *messages, seed=0):
    return Conversation(list(messages) or env.messages("o"), id="c", seed=seed, env=env)


def turn(agent, conv):
    return asyncio.run(agent.act(conv)).text


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "HigherLower-v1"])
def test_random_actions_are_well_formed_in_every_format(env_id, form):
    result = tw.make(env_id, format=form).rollout(tw.agents.RandomAgent(), episodes=16)
    assert result.invalid_share == 0.0
    assert not result.failures


def test_a_random_action_depends_on_the_seed_and_the_turn_alone():
    env = tw.make("HigherLower-v1")
    agent = tw.agents.RandomAgent()
    opening = env.messages("o")
    longer = [*opening, {"role": "assistant", "content": "x"}, {"role": "tool", "content": "y"}]
    first = turn(agent, conversation(env, *opening))
    second = turn(agent, conversation(env, *longer))
    assert first != second
    assert turn(tw.agents.RandomAgent(), conversation(env, *longer)) == second
    assert turn(agent, conversation(env, *opening)) == first
    assert len({turn(agent, conversation(env, *opening, seed=s)) for s in range(50)}) > 20


def test_random_actions_are_uniform_over_the_choices():
    env = tw.make("FrozenLake-v1", format="bracket")
    agent = tw.agents.RandomAgent()
    counts = Counter(turn(agent, conversation(env, seed=s)) for s in range(2000))
    assert set(counts) == {f"move[{d}]" for d in ("left", "down", "right", "up")}
    # 500 each is expected with a standard deviation of 19.4; five of those never happen by chance
    assert all(abs(n - 500) < 97 for n in counts.values())


@pytest.mark.parametrize("form", FORMATS)
def test_the_expert_solves_in_every_format(form):
    assert (
        tw.make("FrozenLake-v1", format=form).rollout(tw.agents.ExpertAgent(), episodes=32).success_rate
        == 1.0
    )


def test_noise_is_the_share_of_random_turns():
    # In HigherLower with a huge range a random guess is never the middle, so the share can be counted.
    env = tw.make("HigherLower-v1", high=10**9, max_turns=25, format="bracket")
    noisy = total = 0
    for trajectory in env.rollout(tw.agents.ExpertAgent(noise=0.3), episodes=100).trajectories:
        low, high = 1, 10**9
        answers = [t.observation for t in trajectory.turns[1:]] + [trajectory.final_observation]
        for t, answer in zip(trajectory.turns, answers, strict=True):
            guess = t.arguments["number"]
            noisy += guess != (low + high) // 2
            total += 1
            low = max(low, guess + 1) if answer == "Higher." else low
            high = min(high, guess - 1) if answer == "Lower." else high
    assert total > 1500
    # five standard deviations of a binomial share: 5 * sqrt(0.3 * 0.7 / 1500) = 0.059
    assert abs(noisy / total - 0.3) < 0.06


def test_full_noise_is_as_good_as_random():
    env = tw.make("FrozenLake-v1")
    noisy = env.rollout(tw.agents.ExpertAgent(noise=1.0), episodes=1000).success_rate
    random = env.rollout(tw.agents.RandomAgent(), episodes=1000).success_rate
    # both are about 0.12, so four standard deviations of the difference are 4 * sqrt(2 * 0.12 * 0.88 / 1000) = 0.058
    assert abs(noisy - random) < 0.058


@pytest.mark.parametrize("noise", [-0.1, 1.1, float("nan")])
def test_noise_must_be_a_share(noise):
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        tw.agents.ExpertAgent(noise)


def test_an_environment_without_expert_is_named():
    with pytest.raises(UsageError, match=r"Shop has no expert.*define expert\(\) in Shop"):
        Shop().rollout(tw.agents.ExpertAgent(), episodes=1)


def test_scripted_actions_are_played_in_order_in_every_episode():
    actions = ["search[a]", "nonsense", "pay[]"]
    result = Shop(format="bracket").rollout(tw.agents.ScriptedAgent(actions), episodes=3)
    assert [[t.action for t in trajectory.turns] for trajectory in result.trajectories] == [actions] * 3
    assert result.success_rate == 1.0


def test_a_script_that_is_too_short_says_so():
    with pytest.raises(UsageError, match=r"1 actions, and Shop wants another one in turn 2"):
        Shop(format="bracket").rollout(tw.agents.ScriptedAgent(["search[a]"]), episodes=1)


def test_a_script_is_not_a_text():
    with pytest.raises(UsageError, match=r"write \['pay\[\]'\]"):
        tw.agents.ScriptedAgent("pay[]")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("line", "tool", "arguments"),
    [
        ("search[red shoes]", "search", {"words": "red shoes"}),
        ("put[apple, 3]", "put", {"item": "apple", "number": 3}),
        ("pay", "pay", {}),
        ("  pay[] ", "pay", {}),
    ],
)
def test_what_a_person_types_becomes_a_call_in_the_format(form, line, tool, arguments):
    env = Shop(format=form)
    env.reset(seed=0)
    info = env.step(as_action(line, env))[4]
    assert (info["call"], info["invalid"]) == (tw.Call(tool, arguments), False)


@pytest.mark.parametrize("form", FORMATS)
def test_a_call_in_the_format_itself_goes_through_as_it_is(form):
    env = Shop(format=form)
    action = env.write(tw.Call("search", {"words": "a [b] c"}))
    assert as_action(action, env) == action


@pytest.mark.parametrize(
    ("form", "line"), [(form, line) for form in FORMATS for line in ("50", " 50 ", "guess[50]")]
)
def test_a_bare_argument_is_enough_where_there_is_one_tool_with_one_parameter(form, line):
    env = tw.make("HigherLower-v1", format=form)
    env.reset(seed=0)
    info = env.step(as_action(line, env))[4]
    assert info["call"] == tw.Call("guess", {"number": 50})


def test_what_is_no_call_goes_to_the_environment_which_answers_it():
    env = Shop(format="hermes")
    assert as_action("hello there", env) == "hello there"


def test_what_is_expected_is_shown():
    assert expected(tw.make("FrozenLake-v1")) == "move: left or down or right or up"
    assert expected(Shop()) == "search[words]   put[item, number]   pay"


def played(monkeypatch, lines, env):
    answers = iter(lines)

    def answer(prompt=""):
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    screen = io.StringIO()
    monkeypatch.setattr("builtins.input", answer)
    agent = tw.agents.HumanAgent(Console(file=screen, width=80))
    return env.rollout(agent, episodes=1), screen


def test_a_person_sees_each_observation_and_an_empty_line_is_asked_again(monkeypatch):
    result, screen = played(monkeypatch, ["search[[bold]x]", "", "  ", "pay"], Shop(format="bracket"))
    (episode,) = result.trajectories
    assert [t.action for t in episode.turns] == ["search[[bold]x]", "pay[]"]
    shown = screen.getvalue()
    assert "Welcome." in shown
    assert "found [bold]x" in shown  # an observation is text, never markup
    assert "turn 2 of 4" in shown
    assert episode.agent == "human"


def test_the_end_of_the_input_leaves_the_game(monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        played(monkeypatch, ["search[x]"], Shop(format="bracket"))
    assert signal.getsignal(signal.SIGINT) is handler


def test_tasks_do_not_matter_to_scripted_agents():
    # Scripted agents read the environment, so they must not disturb it: the same tasks come out with any of them.
    assert isinstance(Shop().tasks, ProceduralTasks)
    random = Shop().rollout(tw.agents.RandomAgent(), episodes=4).trajectories
    scripted = Shop(format="bracket").rollout(tw.agents.ScriptedAgent(["pay[]"]), episodes=4).trajectories
    assert [t.task_id for t in random] == [t.task_id for t in scripted]


def test_an_unknown_agent_is_refused_with_the_names():
    with pytest.raises(AttributeError, match=r"RandomAgent, Reflect, .*ScriptedAgent"):
        tw.agents.Rando  # noqa: B018
