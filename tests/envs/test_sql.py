"""`SQL-v1`: tools, rewards, state, and what a model may write."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import turnwise as tw
from turnwise.configs.compose import compose
from turnwise.configs.schema import TrainConfig
from turnwise.envs.sql.families import FAMILIES
from turnwise.envs.sql.sqlite_database import close_connections

SMALL: dict[str, Any] = compose(
    TrainConfig, ["env=sql_small"], registered={"env": tw.env_ids, "credit": list}
).env.parameters


def sql(**parameters: Any) -> Any:
    return tw.make("SQL-v1", **{"format": "bracket", **SMALL, **parameters})


def start(env: Any, family: str) -> str:
    """Start a task of a family and give its reference."""
    tasks = env.tasks
    task = next(t for t in (tasks.get("train", i) for i in range(50)) if t.family == family)
    env.reset(seed=0, options={"task": task.id})
    return str(task.reference[0])


# Tools


def test_an_episode_by_hand() -> None:
    env = sql(max_turns=10)
    reference = start(env, "list_where")
    observation, reward, _, _, info = env.step("tables[]")
    assert observation == "home\npet\nvet\nvisit"
    table = env.needed[0]
    observation, reward, _, _, info = env.step(f"describe[{table}]")
    assert observation.startswith("id INTEGER PRIMARY KEY\nname TEXT\n")
    assert (reward, info["rewards"]) == (pytest.approx(0.2), {"progress": pytest.approx(0.2)})
    observation, reward, _, _, info = env.step("query[SELECT nam FROM pet]")
    assert (observation, reward, info["invalid"]) == ("Error: no such column: nam", 0.0, True)
    observation, reward, _, _, info = env.step(f"query[{reference}]")
    assert observation.startswith("name\n") and observation.endswith("rows)")
    assert reward == pytest.approx(0.2)
    observation, reward, terminated, _, info = env.step(f"submit[{reference}]")
    assert (observation, terminated, info["success"], info["score"]) == ("Right.", True, True, 1.0)
    assert info["rewards"] == {
        "execution": 0.5,
        "syntax": 1 / 6,
        "schema": 1 / 6,
        "ngram": 1 / 6,
        "progress": pytest.approx(-0.4),
    }
    assert reward == pytest.approx(0.6)


def test_results_are_cut_and_say_how_many_rows_there_are() -> None:
    env = sql(rows=2)
    start(env, "list_where")
    assert (
        env.step("query[SELECT id, NULL FROM pet ORDER BY id LIMIT 2]")[0]
        == "id | NULL\n1 | NULL\n2 | NULL\n(2 rows)"
    )
    assert env.step("query[SELECT id FROM pet ORDER BY id LIMIT 5]")[0] == "id\n1\n2\n(first 2 of 5 rows)"
    assert env.step("query[SELECT id FROM pet WHERE id < 0]")[0] == "id\n(no rows)"
    assert env.step("query[SELECT a.id FROM visit a, visit b, visit c]")[0].endswith(
        "(first 2 of more than 1,000 rows)"
    )
    assert env.step("query[SELECT 1 AS a WHERE 1]")[0] == "a\n1\n(1 row)"


def test_long_values_and_line_breaks_are_kept_on_a_line() -> None:
    env = sql(rows=3)
    start(env, "list_where")
    shown = env.step(f"query[SELECT '{'x' * 300}' AS a, 'b' || char(10) || 'c' AS b, x'0102' AS c]")[
        0
    ].splitlines()
    assert shown == ["a | b | c", f"{'x' * 100}... | b c | x'0102'", "(1 row)"]


def test_describe_finds_a_table_in_any_case_and_names_the_nearest_else() -> None:
    env = sql(samples=2)
    start(env, "list_where")
    assert (
        len(env.step('describe["PET"]')[0].splitlines())
        == len(env.step("describe[pet]")[0].splitlines())
        == 8 + 1 + 2
    )
    observation, _, _, _, info = env.step("describe[pets]")
    assert info["invalid"]
    assert observation == "There is no table of that name. Did you mean 'pet'? Tables: home, pet, vet, visit"


def test_the_schema_stands_in_the_prompt_where_that_is_asked_for() -> None:
    env = sql(schema="prompt")
    observation, _ = env.reset(seed=0)
    assert observation.splitlines()[:2] == [
        "home(id, name, town, rooms)",
        "pet(id, name, kind, colour, mood, age, weight, home_id)",
    ]
    assert observation.endswith(env.task.prompt)
    assert env.expert().tool == "query"
    assert sql(schema="prompt", demonstration="straight").expert.__self__.demonstration == "straight"


# Rewards


def test_a_partly_right_query_is_paid_between_garbage_and_a_right_one() -> None:
    paid = []
    env = sql()
    for wrong in (
        lambda r: "x y",
        lambda r: "SELECT id FROM home",
        lambda r: r.partition(" WHERE")[0],
        lambda r: r,
    ):
        reference = start(env, "list_where")
        _, reward, _, _, info = env.step(f"submit[{wrong(reference)}]")
        assert reward == pytest.approx(sum(info["rewards"].values()))
        paid.append(reward)
    assert paid[0] == 0.0
    assert paid[3] == pytest.approx(1.0)
    assert paid[0] < paid[1] < paid[2] < 0.5 < paid[3]


def test_a_right_query_is_paid_alike_however_it_is_written() -> None:
    env = sql()
    reference = start(env, "list_where")
    other = (
        reference.replace("SELECT name", "SELECT t.name").replace(" WHERE ", " AS t WHERE 1 = 1 AND ").lower()
    )
    _, quote, tail = reference.partition("'")
    other = other.partition("'")[0] + quote + tail
    _, reward, _, _, info = env.step(f"submit[{other}]")
    assert info["success"]
    assert reward == pytest.approx(1.0)


@pytest.mark.parametrize("parameters", [{"reward": "outcome"}, {"partial": False}])
def test_partial_rewards_can_be_switched_off(parameters: dict[str, Any]) -> None:
    env = sql(**parameters)
    reference = start(env, "list_where")
    _, reward, _, _, info = env.step(f"submit[{reference.partition(' WHERE')[0]}]")
    assert (reward, info["rewards"], info["score"]) == (0.0, {}, 0.0)
    start(env, "list_where")
    _, reward, _, _, info = env.step(f"submit[{reference}]")
    assert (reward, info["rewards"]) == (1.0, {"execution": 1.0})


def test_the_shaping_is_taken_back_at_the_end() -> None:
    env = sql(max_turns=4)
    reference = start(env, "list_where")
    paid = [
        env.step(a)[4]["shaping"]
        for a in (f"describe[{env.needed[0]}]", f"query[{reference}]", "tables[]", "tables[]")
    ]
    assert paid == [pytest.approx(0.2), pytest.approx(0.2), 0.0, pytest.approx(-0.4)]


def test_a_query_that_is_right_on_the_shown_rows_alone_is_wrong() -> None:
    env = sql()
    start(env, "count_where")
    shown = env._bases()[0].run(env.reference()[0], 1).rows[0][0]
    observation, _, _, _, info = env.step(f"submit[SELECT {shown}]")
    assert (observation, info["success"]) == ("Wrong.", False)


def test_an_order_counts_where_the_question_asks_for_one() -> None:
    env = tw.make("SQL-v1", format="bracket", questions=30, families=("sorted_list", "list_where"))
    ordered = start(env, "sorted_list")
    assert not env.step(f"submit[{ordered.partition(' ORDER')[0]} ORDER BY name DESC]")[4]["success"]
    unordered = start(env, "list_where")
    assert env.step(f"submit[{unordered} ORDER BY name DESC]")[4]["success"]


def test_columns_may_be_turned_round_only_where_that_is_allowed() -> None:
    for order, right in (("same", False), ("any", True)):
        env = tw.make(
            "SQL-v1", format="bracket", questions=20, families=("group_average",), column_order=order
        )
        reference = start(env, "group_average")
        head, _, tail = reference.removeprefix("SELECT ").partition(" FROM ")
        one, _, other = head.partition(", ")
        assert env.step(f"submit[SELECT {other}, {one} FROM {tail}]")[4]["success"] is right


# State, expert


def test_the_state_key_follows_what_was_seen() -> None:
    env = sql()
    keys = [env.reset(seed=0)[1]["state_key"]]
    for action in ("tables[]", "describe[pet]", "query[SELECT 1]", "nothing", "query[SELECT id FROM pet]"):
        keys.append(env.step(action)[4]["state_key"])
    assert len(set(keys)) == 5
    assert keys[3] == keys[4]
    env.reset(seed=0)
    for action in ("describe[pet]", "tables[]", "query[SELECT  1]"):  # another way to the same state
        last = env.step(action)[4]["state_key"]
    assert last == keys[3]


@pytest.mark.parametrize("demonstration", ["explore", "straight"])
def test_the_expert_solves_every_family(demonstration: str) -> None:
    env = tw.make("SQL-v1", demonstration=demonstration)
    result = env.rollout(tw.agents.ExpertAgent(), env.tasks.size("test"), split="test")
    assert result.success_rate == 1.0
    assert {t.family for t in result.trajectories} == set(FAMILIES)
    assert max(len(t.turns) for t in result.trajectories) <= (1 if demonstration == "straight" else 8)


def test_random_actions_are_calls_and_hardly_ever_right() -> None:
    env = sql()
    rng = np.random.default_rng(0)
    result = env.rollout(lambda _: env.sample_action(rng), 100, seed=0)
    assert result.success_rate < 0.2
    assert {turn.tool for t in result.trajectories for turn in t.turns} == {
        "tables",
        "describe",
        "query",
        "submit",
    }


@settings(max_examples=60)
@given(text=st.text(max_size=60), tool=st.sampled_from(["query", "submit", "describe"]))
def test_whatever_a_model_writes_is_answered(text: str, tool: str) -> None:
    env = _SHARED
    env.reset(seed=1)
    observation, reward, _, _, _ = env.step(f"{tool}[{text}]")
    assert observation
    assert 0.0 <= reward < 1.0


_SHARED = sql()


# What breaks


def test_a_database_that_breaks_in_mid_episode_is_a_failed_episode_and_the_run_goes_on(
    tmp_path: Path, real_data: Path
) -> None:
    path = tmp_path / "Chinook_Sqlite.sqlite"
    path.write_bytes((real_data / "sql" / "Chinook_Sqlite.sqlite").read_bytes())
    env = tw.make("SQL-v1", dataset="chinook", data=path, split="test", format="bracket")
    whole = path.read_bytes()

    def agent(messages: Any) -> str:
        if len(messages) == 4:
            path.write_bytes(b"x" * len(whole))
        return "query[SELECT sum(length(Name)) FROM Track]"

    env.reset(seed=0)
    result = env.rollout(agent, 2, split="test", concurrency=1)
    assert [t.status for t in result.trajectories] == ["failed", "failed"]
    assert all("DatabaseCorrupt" in str(t.error) for t in result.trajectories)
    path.write_bytes(whole)
    close_connections()
    assert env.rollout(tw.agents.ExpertAgent(), 5, split="test").success_rate == 1.0


def test_a_query_that_never_ends_is_an_observation() -> None:
    env = sql(work=100_000)
    env.reset(seed=0)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    observation, _, terminated, _, info = env.step(f"query[{endless}]")
    assert observation.startswith("Error: the query was stopped")
    assert info["invalid"] and not terminated
    observation, _, terminated, _, info = env.step(f"submit[{endless}]")
    assert (observation, terminated, info["success"]) == ("Wrong.", True, False)


def test_the_small_preset_is_short_enough_for_the_tiny_model() -> None:
    env = sql()
    assert env.tasks.splits["test"] >= 30
    for index in range(env.tasks.splits["test"]):
        task = env.tasks.get("test", index)
        assert len(task.prompt) < 80
        assert len(task.reference[0]) < 90


def test_sqlite_is_opened_for_reading_alone(tmp_path: Path) -> None:
    env = sql()
    env.reset(seed=0)
    path = env.library.files(env.task.data["database"])[0]
    before = path.read_bytes()
    for action in ("query[DELETE FROM pet]", "submit[DROP TABLE pet]"):
        env.reset(seed=0)
        env.step(action)
    assert path.read_bytes() == before
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM pet").fetchone()[0] > 0
    connection.close()
