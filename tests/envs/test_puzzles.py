"""Every puzzle: instances that can be solved, solutions that are checked without playing, levels that differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter, UsageError
from turnwise.envs.puzzles.puzzle import LEVELS, Draws, Puzzle

PUZZLES = [i for i in tw.env_ids() if issubclass(tw.envs.env_class(i), Puzzle)]

Calls = Callable[[Any], list[tw.Call]]


def by(tool: str, *names: str) -> Calls:
    """A solution of single values, or of tuples of them, as calls of one tool."""

    def calls(solution: Any) -> list[tw.Call]:
        parts = [solution] if isinstance(solution, str) else solution
        return [
            tw.Call(tool, dict(zip(names, part if len(names) > 1 else [part], strict=True))) for part in parts
        ]

    return calls


def cells(tool: str, size: Callable[[Any], int]) -> Callable[[Any, Any], list[tw.Call]]:
    return lambda instance, solution: [
        tw.Call(tool, {"row": c // size(instance) + 1, "column": c % size(instance) + 1}) for c in solution
    ]


def cooking(solution: list[str]) -> list[tw.Call]:
    names = {"go": ["room"], "take": ["food"], "cut": ["food", "how"], "cook": ["food", "how"]}
    return [
        tw.Call(verb, dict(zip(names.get(verb, []), rest, strict=True)))
        for verb, *rest in (action.split() for action in solution)
    ]


def taxi(solution: list[str]) -> list[tw.Call]:
    return [
        tw.Call(a, {}) if a in ("pick_up", "set_down") else tw.Call("drive", {"direction": a})
        for a in solution
    ]


# How a solution is played: what a user of `generate` and `solution` would write for each puzzle.
PLAYED: dict[str, Callable[[Any, Any], list[tw.Call]]] = {
    "Bandit-v1": lambda _, s: by("choose", "arm")(s),
    "Cooking-v1": lambda _, s: cooking(s),
    "GraphNavigation-v1": lambda _, s: by("go", "place")(s),
    "Hanoi-v1": lambda _, s: by("move", "source", "target")(s),
    "KeyDoor-v1": lambda _, s: by("move", "direction")(s),
    "LightsOut-v1": cells("press", lambda instance: instance.size),
    "Mastermind-v1": lambda _, s: by("guess", "code")(s),
    "Maze-v1": lambda _, s: by("move", "direction")(s),
    "Minesweeper-v1": cells("reveal", lambda instance: instance.size),
    "SlidingTiles-v1": lambda _, s: by("slide", "tile")(s),
    "Taxi-v1": lambda _, s: taxi(s),
    "TwentyFour-v1": lambda _, s: by("combine", "a", "operation", "b")(
        [(str(a), o, str(b)) for a, o, b in s]
    ),
    "WordGuess-v1": lambda _, s: by("guess", "word")(s),
}


def corrupted(solution: Any, draws: Draws) -> list[Any]:
    """Wrong solutions near a right one: a step left out, at the end and anywhere; or a sign of a text changed."""
    if isinstance(solution, str):
        place = draws.below(len(solution))
        other = "x" if solution[place] != "x" else "y"
        return [solution[:-1], solution[:place] + other + solution[place + 1 :], None, 5]
    # To read the recipe is wise, not needed.
    place = draws.pick([i for i, step in enumerate(solution) if step != "read"])
    return [solution[:-1], solution[:place] + solution[place + 1 :], None, 5, [None], "?"]


@pytest.mark.parametrize("env_id", PUZZLES)
def test_a_thousand_instances_accept_their_own_solution_and_reject_a_corrupted_one(env_id: str) -> None:
    cls: Any = tw.envs.env_class(env_id)
    for seed in range(1000):
        instance = cls.generate(seed, LEVELS[seed % 3])
        solution = cls.solution(instance)
        assert cls.verify(instance, solution), (seed, instance)
        for wrong in corrupted(solution, Draws(seed)):
            assert not cls.verify(instance, wrong), (seed, instance, wrong)


@pytest.mark.parametrize("env_id", PUZZLES)
def test_the_solution_of_an_instance_solves_the_environment_too(env_id: str) -> None:
    # `verify` knows the rules of the puzzle by other code than the tools: this is where the two must agree.
    for level in LEVELS:
        env: Any = tw.make(env_id, difficulty=level, max_turns=100)
        for seed in range(10):
            env.reset(seed=seed)
            calls = PLAYED[env_id](env.instance, env.solution(env.instance))
            for number, call in enumerate(calls):  # noqa: B007
                _, _, terminated, _, info = env.step(env.write(call))
                if env_id == "Minesweeper-v1" and info["invalid"]:
                    continue  # a neighbour had opened it already
                assert not info["invalid"], call
                if terminated:
                    break
            assert terminated and info["success"]
            assert env_id == "Minesweeper-v1" or number == len(calls) - 1


@pytest.mark.parametrize("env_id", PUZZLES)
def test_a_fixed_solver_succeeds_less_often_on_harder_levels(env_id: str) -> None:
    turns = tw.envs.env_class(env_id).turns["easy"]  # type: ignore[attr-defined]
    rates = []
    for level in LEVELS:
        env = tw.make(env_id, difficulty=level, max_turns=turns, format="bracket")
        rates.append(env.rollout(tw.agents.ExpertAgent(noise=0.5), episodes=120, seed=0).success_rate)
    easy, medium, hard = rates
    assert easy > hard
    assert medium <= easy + 0.05
    assert hard <= medium + 0.05


@pytest.mark.parametrize("env_id", PUZZLES)
def test_every_legal_call_is_possible(env_id: str) -> None:
    env: Any = tw.make(env_id, difficulty="mixed")
    rng = np.random.default_rng(0)
    for seed in range(6):
        env.reset(seed=seed)
        over = False
        while not over:
            calls = env.legal()
            state = env.snapshot()
            for call in (calls[int(i)] for i in rng.integers(len(calls), size=3)):
                env.restore(state)
                assert not env.step(env.write(call))[4]["invalid"], call
            env.restore(state)
            _, _, terminated, truncated, _ = env.step(env.write(env.expert() or calls[0]))
            over = terminated or truncated


def test_mixed_gives_the_levels_in_turn_and_reports_say_which() -> None:
    env = tw.make("Hanoi-v1", difficulty="mixed")
    played = env.rollout(tw.agents.ExpertAgent(), episodes=6).trajectories
    assert [t.difficulty for t in played] == ["easy", "medium", "hard"] * 2
    assert env.max_turns == 62


def test_the_level_sets_the_turns_unless_they_are_given() -> None:
    assert tw.make("Maze-v1", difficulty="medium").max_turns == 40
    assert tw.make("Maze-v1", difficulty="medium", max_turns=7).max_turns == 7
    assert tw.make("Maze-v1", difficulty="medium").clone().max_turns == 40


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(InvalidParameter, match="difficulty='brutal'"):
        tw.make("Maze-v1", difficulty="brutal")
    with pytest.raises(UsageError, match="one of easy, medium, hard, got 'brutal'"):
        tw.envs.env_class("Maze-v1").generate(0, "brutal")  # type: ignore[attr-defined]


def test_mastermind_counts_each_digit_of_the_code_once() -> None:
    # By hand: the code 1123 and the guess 1211. The first 1 is exact; the 2 and one more 1 are misplaced; the third 1 of the
    # guess finds no third 1 in the code.
    env: Any = tw.make("Mastermind-v1", difficulty="medium", format="bracket")
    env.reset(seed=0)
    env.instance = type(env.instance)(6, "1123")
    env.begin(env.instance)
    assert env.step("guess[1211]")[0] == "1 exact, 2 misplaced"


def by_hand(hidden: str, guess: str) -> str:
    """The signs of a guess by the rule as people state it, letter by letter."""
    signs = ["-"] * len(guess)
    rest = list(hidden)
    for place, letter in enumerate(guess):
        if hidden[place] == letter:
            signs[place] = "+"
            rest.remove(letter)
    for place, letter in enumerate(guess):
        if signs[place] == "-" and letter in rest:
            signs[place] = "?"
            rest.remove(letter)
    return "".join(signs)


def test_word_guess_signs_are_those_of_the_rule_for_every_pair_of_words(tmp_path: Path) -> None:
    words = ["abba", "baab", "aabb", "abcd", "dcba", "aaaa", "bbbb", "cacd", "ddaa"]
    file = tmp_path / "words.txt"
    file.write_text("\n".join(words))
    env: Any = tw.make("WordGuess-v1", words=file, format="bracket")
    for hidden in words:
        for guess in words:
            env.reset(options={"task": hidden})
            said = env.step(f"guess[{guess}]")[0]
            assert said == ("That is the word." if guess == hidden else f"{guess} {by_hand(hidden, guess)}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("cat\ncow\nhorse", "word 3: 'horse' is not a word of 3 small letters"),
        ("cat\nCow", "word 2: 'Cow'"),
        ("cat\nc0w", "word 2: 'c0w'"),
        ("cat\ncat", "has the word 'cat' twice"),
        ("cat", "holds no two words"),
    ],
)
def test_a_wrong_word_list_names_the_word(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text(content)
    with pytest.raises(InvalidParameter, match=said):
        tw.make("WordGuess-v1", words=file)


def test_the_published_24_puzzles_load_with_their_solve_rates(real_data: Path) -> None:
    env: Any = tw.make("TwentyFour-v1", puzzles=real_data / "puzzles" / "24.csv", format="bracket")
    assert sum(env.tasks.splits.values()) == 300
    assert env.tasks.find("1 1 4 6").difficulty == "easy"
    result = env.rollout(tw.agents.ExpertAgent(), episodes=20, split="train")
    assert result.success_rate == 1.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Rank,Puzzles,Solved rate\n1,1 2 3 x,90%\n", "row 1: Puzzles='1 2 3 x'"),
        ("Rank,Puzzles,Solved rate\n1,1 2 3 4,90%\n2,1 2 3 4,often\n", "row 2: .*Solved rate='often'"),
        ("Rank,Numbers\n1,1 2 3 4\n", "row 1: Puzzles=''"),
        ("", "holds no row"),
    ],
)
def test_a_wrong_row_of_a_24_file_is_named(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "24.csv"
    file.write_text(content)
    with pytest.raises(InvalidParameter, match=said):
        tw.make("TwentyFour-v1", puzzles=file)


def test_twenty_four_is_exact_with_fractions() -> None:
    # 8 / (3 - 8/3) = 24, where floating point numbers give 23.99...
    env: Any = tw.make("TwentyFour-v1", difficulty="medium", format="bracket")
    env.reset(seed=0)
    env.instance = type(env.instance)((3, 3, 8, 8))
    env.begin(env.instance)
    for action, seen in (("combine[8,/,3]", "8/3 3 8"), ("combine[3,-,8/3]", "1/3 8")):
        assert env.step(action)[0] == seen
    observation, reward, terminated, _, info = env.step("combine[8,/,1/3]")
    assert (observation, terminated, info["success"]) == ("24 is left.", True, True)
    assert reward + 0 == pytest.approx(1.0 + info["shaping"])


def test_the_key_pays_nothing_of_its_own() -> None:
    env: Any = tw.make("KeyDoor-v1", difficulty="easy", reward="outcome")
    env.reset(seed=0)
    rewards, over = [], False
    while not over:
        _, reward, over, _, _ = env.step(env.write(env.expert()))
        rewards.append(reward)
    assert rewards[:-1] == [0.0] * (len(rewards) - 1)
    assert rewards[-1] == 1.0


def test_the_belief_of_the_bandit_follows_bayes_rule() -> None:
    # By hand, three arms with 0.9 and 0.3: after one payoff of `red` the weights are 3 : 1 : 1; an adviser who is right with
    # 0.8 and then names `red` multiplies its odds by 0.8 / 0.1 = 8, so 24 : 1 : 1.
    env: Any = tw.make("Bandit-v1")
    env.reset(seed=0)
    red, *others = env.instance.colours
    env.wins[red] += 1
    assert env._beliefs()[red] == pytest.approx(3 / 5)
    env.named[red] += 1
    assert env._beliefs()[red] == pytest.approx(24 / 26)
    assert env._beliefs()[others[0]] == pytest.approx(1 / 26)


def test_a_hard_minesweeper_field_needs_no_guess() -> None:
    env: Any = tw.make("Minesweeper-v1", difficulty="hard")
    for seed in range(10):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            call = env.expert()
            assert call is not None
            _, _, terminated, _, info = env.step(env.write(call))
        assert info["success"]
