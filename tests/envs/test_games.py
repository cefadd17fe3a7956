"""The games: their rules against plain second versions, matches between agents, PettingZoo's own test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Hashable
from itertools import product
from typing import Any

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter, UsageError
from turnwise.envs.games.game import Game
from turnwise.envs.games.match import match

GAMES = [i for i in tw.env_ids() if issubclass(tw.envs.env_class(i), Game)]


def game(env_id: str, **parameters: Any) -> Any:
    return tw.make(env_id, **{"format": "bracket", **parameters})


class Scissors(Game):
    """Both show a hand at the same time; a test's game, of simultaneous moves.

    Observation: the round. Tools: `show`. Reward: the win. Terminated: both have shown.
    """

    roles = ("left", "right")

    def deal(self, draws: np.random.Generator) -> None:
        self.number = int(draws.integers(1000))
        self.shown: dict[int, str] = {}

    def movers(self) -> tuple[int, ...]:
        return tuple(seat for seat in (0, 1) if seat not in self.shown)

    def view(self, seat: int) -> str:
        return f"game {self.number}; shown: {self.shown if len(self.shown) == 2 else 'nothing'}"

    def legal(self, seat: int) -> list[tw.Call]:
        return [tw.Call("show", {"hand": hand}) for hand in ("rock", "paper", "scissors")]

    def play(self, seat: int, call: tw.Call) -> None:
        self.shown[seat] = call.arguments["hand"]

    @tw.tool
    def show(self, hand: str) -> tw.Outcome:
        """Show a hand.

        Args:
            hand: rock, paper or scissors.
        """
        return self._take(tw.Call("show", {"hand": hand}))

    def utilities(self) -> tuple[float, float]:
        beats = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}
        mine, other = self.shown[0], self.shown[1]
        return (0.5, 0.5) if mine == other else (1.0, 0.0) if (mine, other) in beats else (0.0, 1.0)

    def state_key(self) -> Hashable:
        return tuple(self.shown.items()), self.me

    def best(self, seat: int) -> tw.Call:
        return tw.Call("show", {"hand": "rock"})


@pytest.mark.parametrize("env_id", GAMES)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_pettingzoo_s_own_test_passes(env_id: str) -> None:
    try:
        from pettingzoo.test import api_test, seed_test
    except ImportError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"PettingZoo is not installed: {error}")
    from turnwise.envs.games.aec import GameAEC

    api_test(GameAEC(env_id, format="bracket"), num_cycles=60)
    seed_test(lambda: GameAEC(env_id, format="bracket"), num_cycles=20)


@pytest.mark.parametrize("env_id", GAMES)
def test_a_match_gives_one_trajectory_per_seat_with_its_role(env_id: str) -> None:
    g = game(env_id)
    result = match(g, dict.fromkeys(g.roles, tw.agents.RandomAgent()), 6, group_size=3)
    assert [t.role for t in result.trajectories] == list(g.roles) * 6
    assert not result.failures
    # Groups are of a task and a role: credit compares a seat with the same seat.
    seats = {(t.group, t.role, t.task_id) for t in result.trajectories}
    assert len(seats) == 2 * len(g.roles)
    for first, second in zip(result.trajectories[::2], result.trajectories[1::2], strict=True):
        assert first.task_id == second.task_id
        assert (first.turns[-1].reward, second.turns[-1].reward) == (first.score, second.score)
        assert sum(turn.reward for turn in first.turns) == first.score


@pytest.mark.parametrize("env_id", [i for i in GAMES if i not in ("JudgeCritic-v1", "Negotiation-v1")])
def test_what_one_seat_wins_the_other_loses(env_id: str) -> None:
    g = game(env_id)
    result = match(g, dict.fromkeys(g.roles, tw.agents.RandomAgent()), 10)
    for first, second in zip(result.trajectories[::2], result.trajectories[1::2], strict=True):
        assert first.score + second.score == pytest.approx(1.0)


def test_a_seat_sees_what_the_others_did_and_its_conversation_only_grows() -> None:
    g = game("TicTacToe-v1")
    seen: dict[str, list[str]] = {"X": [], "O": []}

    def by(role: str) -> Any:
        def act(messages: Any) -> str:
            text = "\n".join(m["content"] for m in messages)
            assert not seen[role] or text.startswith(seen[role][-1])
            seen[role].append(text)
            said = messages[-1]["content"]
            board = said.partition("\n")[2] if said.startswith("You are") else said
            assert board.count("X") == board.count("O") + (role == "O")
            return f"place[{next(c for c in board if c.isdigit())}]"

        return act

    result = match(g, {"X": by("X"), "O": by("O")}, 1)
    assert not result.failures
    assert len(seen["X"]) > 1
    assert len(seen["O"]) > 0


def test_simultaneous_moves_are_asked_at_the_same_time_and_hidden_from_each_other(register: Any) -> None:
    g = game(register(Scissors, max_turns=3))
    waiting, most = 0, 0

    async def slow(messages: Any) -> str:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        assert "shown: nothing" in messages[-1]["content"]
        await asyncio.sleep(0.01)
        waiting -= 1
        return "show[paper]"

    result = match(g, {"left": slow, "right": slow}, 1)
    assert most == 2
    assert [t.score for t in result.trajectories] == [0.5, 0.5]


def test_a_scripted_opponent_of_a_simultaneous_game_moves_too(register: Any) -> None:
    g = game(register(Scissors, max_turns=3), opponent="expert", seat=0)
    g.reset(seed=0)
    _, reward, terminated, _, info = g.step("show[paper]")
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_an_illegal_move_costs_the_turn_or_the_game() -> None:
    def stubborn(messages: Any) -> str:
        return "place[1]"

    again = match(game("TicTacToe-v1"), {"X": stubborn, "O": tw.agents.ExpertAgent()}, 1).trajectories
    assert sum(turn.invalid for turn in again[0].turns) >= 5
    assert "taken" in again[0].turns[-1].observation
    assert again[0].status == "truncated"
    forfeit = match(game("TicTacToe-v1", illegal="forfeit"), {"X": stubborn, "O": stubborn}, 1).trajectories
    assert [t.status for t in forfeit] == ["terminated"] * 2
    assert sorted(t.score for t in forfeit) == [0.0, 1.0]


def test_an_agent_that_breaks_fails_the_game_for_all_seats_after_one_more_try() -> None:
    calls = 0

    def broken(messages: Any) -> str:
        nonlocal calls
        calls += 1
        raise ConnectionError("gone")

    result = match(game("Nim-v1"), {"first": broken, "second": tw.agents.RandomAgent()}, 2)
    assert calls == 4
    assert result.failures == {"ConnectionError": 4}
    assert all(t.attempts == 2 for t in result.trajectories)


def test_a_match_wants_an_agent_for_every_role() -> None:
    agent = tw.agents.RandomAgent()
    with pytest.raises(UsageError, match="no agent for second of Nim-v1"):
        match(game("Nim-v1"), {"first": agent}, 1)
    with pytest.raises(UsageError, match=r"no role 'frist'.*'first'"):
        match(game("Nim-v1"), {"frist": agent, "second": agent}, 1)
    with pytest.raises(UsageError, match="HigherLower-v1 is for one agent"):
        match(game("HigherLower-v1"), {}, 1)
    with pytest.raises(InvalidParameter, match="seat=2 is none"):
        game("Nim-v1", seat=2)


def plain_minimax(board: str, mark: str) -> int:
    lines = [
        board[0:3],
        board[3:6],
        board[6:9],
        board[0::3],
        board[1::3],
        board[2::3],
        board[0::4],
        board[2:7:2],
    ]
    if "XXX" in lines or "OOO" in lines:
        return -1
    free = [i for i in range(9) if board[i] == "."]
    if not free:
        return 0
    return max(-plain_minimax(board[:i] + mark + board[i + 1 :], "XO"[mark == "X"]) for i in free)


def test_the_tic_tac_toe_expert_makes_a_move_of_the_best_value_on_every_first_board() -> None:
    g = game("TicTacToe-v1", seat=0)
    g.reset(seed=0)
    for x, o in product(range(9), repeat=2):
        if x == o:
            continue
        g.board = "".join("X" if i == x else "O" if i == o else "." for i in range(9))
        cell = g.best(0).arguments["cell"] - 1
        after = g.board[:cell] + "X" + g.board[cell + 1 :]
        assert -plain_minimax(after, "O") == plain_minimax(g.board, "X")


def test_four_in_a_line_is_found_as_on_a_plain_board() -> None:
    g = game("ConnectFour-v1")
    rng = np.random.default_rng(0)
    ended = 0
    for seed in range(30):
        g.reset(seed=seed)
        while g.movers():
            (seat,) = g.movers()
            calls = g.legal(seat)
            g.play(seat, calls[int(rng.integers(len(calls)))])
            rows = [row.split() for row in g.view(0).splitlines()[:6]]
            for seat, mark in enumerate("XO"):
                four = any(
                    all(
                        0 <= r + i * down < 6
                        and 0 <= c + i * right < 7
                        and rows[r + i * down][c + i * right] == mark
                        for i in range(4)
                    )
                    for r in range(6)
                    for c in range(7)
                    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
                )
                assert four == (not g.movers() and g.utilities()[seat] == 1.0)
        ended += 1
    assert ended == 30


def test_the_connect_four_expert_wins_at_once_and_blocks() -> None:
    g = game("ConnectFour-v1", seat=0)
    g.reset(seed=0)
    for mine in (0, 1):  # three of one's own on the floor, or three of the other's
        g.stones, g.heights = [0, 0], [0] * 7
        for column in (1, 2, 3):
            g.play(mine, tw.Call("drop", {"column": column}))
        assert g.best(0).arguments["column"] == 4


def can_win(heaps: tuple[int, ...]) -> bool:
    return any(
        not can_win((*heaps[:i], n - taken, *heaps[i + 1 :]))
        for i, n in enumerate(heaps)
        for taken in range(1, n + 1)
    )


def test_the_nim_expert_wins_wherever_one_can() -> None:
    g = game("Nim-v1", seat=0)
    g.reset(seed=0)
    for heaps in product(range(4), repeat=3):
        if not any(heaps) or not can_win(heaps):
            continue
        g.left, g.next = list(heaps), 0
        g.play(0, g.best(0))
        assert not can_win(tuple(g.left)), heaps


def test_the_kuhn_equilibrium_is_worth_minus_one_eighteenth_to_who_begins() -> None:
    # Kuhn (1950). The chances are multiples of a third, so that the middles of sixths integrate exactly.
    g = game("KuhnPoker-v1", hands=1)
    g.reset(seed=0)
    middles = [(i + 0.5) / 6 for i in range(6)]
    total, deals = 0.0, 0
    for cards in ("JQ", "JK", "QJ", "QK", "KJ", "KQ"):
        for a, b in product(middles, repeat=2):
            g.cards, g.mix, g.betting = [cards], [[a, b]], [""]
            while seats := g.movers():
                g.play(seats[0], g.best(seats[0]))
            total += 4 * g.utilities()[0] - 2
            deals += 1
    assert total / deals == pytest.approx(-1 / 18)


@pytest.mark.parametrize(
    ("betting", "chips"),
    [("pp", 1), ("bb", 2), ("bp", -1), ("pbb", 2), ("pbp", 1)],
)
def test_the_chips_of_a_kuhn_hand(betting: str, chips: int) -> None:
    # The second seat begins (hand two) and holds the lower card. It folds in `pbp`, the other in `bp`.
    from turnwise.envs.games.kuhn_poker import _chips

    assert _chips("KQ", betting, 1) == (chips, -chips)


def test_a_deal_is_worth_what_the_items_are_worth_to_each() -> None:
    g = game("Negotiation-v1", seat=0)
    g.reset(seed=0)
    g.items, g.values, g.offers, g.accepted = (1, 2, 3), ((4, 3, 0), (1, 0, 3)), [], False
    g.play(0, tw.Call("offer", {"books": 1, "hats": 1, "balls": 0}))
    g.play(1, tw.Call("accept", {}))
    # By hand: the first takes 4 + 3 = 7 of its 10; one hat and three balls are left, worth 0 + 9 to the second.
    assert g.utilities() == (0.7, 0.9)


def test_nobody_sees_the_other_s_values_or_card() -> None:
    g = game("Negotiation-v1")
    for seed in range(20):
        g.reset(seed=seed)
        worth = ", ".join(f"{n} {v}" for n, v in zip(("books", "hats", "balls"), g.values[1], strict=True))
        assert worth not in g.view(0)
    k = game("KuhnPoker-v1")
    k.reset(seed=0)
    assert f"Your card: {k.cards[0][0]}." in k.view(0)
    assert k.cards[0][1] not in k.view(0).partition("Your card:")[2].replace("So far", "")


def test_only_the_critic_is_told_the_truth() -> None:
    g = game("JudgeCritic-v1")
    g.reset(seed=0)
    g.said, g.ruled = 1, None
    assert "Wrong:" in g.view(0)
    assert "Wrong:" not in g.view(1)
