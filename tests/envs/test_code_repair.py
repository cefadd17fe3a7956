"""`CodeRepair-v1`: packages whose bug can be found, tools that keep to the package, and a grader out of reach."""

from __future__ import annotations

import os
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.code.code_repair import CodeRepair
from turnwise.envs.code.packages import LEVELS, TOPICS, package
from turnwise.envs.errors import InvalidParameter


def make(**parameters: Any) -> Any:
    try:
        return tw.make("CodeRepair-v1", format="hermes", **parameters)
    except InvalidParameter as error:
        if "cannot be used" in str(error) and os.environ.get("CI") != "true":
            pytest.skip(str(error))
        raise


def act(env: Any, name: str, **arguments: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
    return env.step(env.write(tw.Call(name, arguments)))


def started(**parameters: Any) -> Any:
    env = make(**parameters)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("topic", TOPICS)
def test_a_package_has_one_bug_and_more_hidden_tests_than_shown_ones(topic: str, level: str) -> None:
    for split in ("train", "test"):
        p = package(topic, level, split, 5)
        assert p.files[p.path] != p.repaired
        assert p.files[p.path].count(p.wrong) == 1
        assert p.repaired.count(p.right) == 1
        assert 0 < len(p.failing) < len(p.hidden)
        assert len(p.shown) < len(p.hidden)
        assert len([path for path in p.files if path.startswith(f"{p.name}/")]) == 5
        for text in p.files.values():
            assert "$" not in text


def test_the_report_says_less_as_it_gets_harder() -> None:
    easy, medium, hard = (package("lists", level, "train", 1) for level in LEVELS)
    assert ".lists." in easy.report
    assert easy.report.startswith("A user reports")
    assert medium.report == "Some of its tests fail."
    assert "batch.batch(" in hard.report


def test_the_expert_mends_every_topic_at_every_level() -> None:
    env = make()
    result = env.rollout(
        tw.agents.ExpertAgent(), episodes=len(TOPICS) * len(LEVELS), split="test", concurrency=4
    )
    assert [t.task_id for t in result.trajectories if not t.success] == []
    assert {(t.family, t.difficulty) for t in result.trajectories} == {
        (t, level) for t in TOPICS for level in LEVELS
    }


def test_its_tests_fail_before_and_pass_after_the_repair() -> None:
    env = started(level="medium")
    observation = act(env, "shell", command="python -m unittest")[0]
    assert "FAILED (failures=" in observation or "FAILED (errors=" in observation
    assert "Ran 12 tests in 0s" in observation or "tests in 0s" in observation
    before = env.potential()
    _, reward, *_ = act(env, "edit", path=env.package.path, old=env.package.wrong, new=env.package.right)
    assert reward == pytest.approx(0.5 - before)
    assert "OK" in act(env, "shell", command="python -m unittest")[0]
    _, reward, terminated, _, info = act(env, "submit")
    assert terminated
    assert info["success"]
    assert info["rewards"] == {"outcome": 1.0, "tests": pytest.approx(-0.5)}


def test_a_package_handed_in_as_it_was_scores_nothing_and_a_broken_one_no_less() -> None:
    env = started()
    assert act(env, "submit")[4]["score"] == 0.0
    env.reset(seed=0)
    act(env, "edit", path=env.package.path, old="", new="")
    assert act(env, "submit")[4]["score"] == 0.0


def test_special_casing_the_shown_tests_does_not_pass_the_hidden_ones() -> None:
    env = started(level="easy")
    p = env.package
    call = next(c for c in p.shown if c.function in p.wrong and p.hidden.index(c) in p.failing)
    name = call.function
    patch = f"\n\n_{name} = {name}\n\n\ndef {name}(*a):\n    return {call.case.expected!r} if repr(a) == {repr(call.case.arguments)!r} else _{name}(*a)\n"
    act(env, "edit", path=p.path, old="", new=p.files[p.path] + patch)
    assert env.share == 1.0
    info = act(env, "submit")[4]
    assert info["success"] is (len(p.failing) == 1)
    assert info["score"] <= 0.5 or info["success"]


def test_tests_that_are_made_to_pass_earn_nothing() -> None:
    env = started(level="medium")
    before = env.potential()
    for path in list(env.contents):
        if path.startswith("tests/test_"):
            assert act(env, "edit", path=path, old="", new="import unittest\n")[1] == 0.0
    assert "Ran 0 tests" in act(env, "shell", command="python -m unittest")[0]
    assert env.potential() == before
    assert not act(env, "submit")[4]["success"]


ATTACKS = {
    "a package that ends the process": "import os\nos._exit(0)\n",
    "a package that says it is right": "import builtins\nbuiltins.isinstance = lambda *a: True\n",
    "objects that equal everything": (
        "class Yes:\n    def __eq__(self, other): return True\n    def __call__(self, *a): return self\n"
        "import sys\nclass Module(type(sys)):\n    def __getattr__(self, name): return Yes()\n"
        "sys.modules[__name__] = Module(__name__)\n"
    ),
    "a runner that is shadowed": None,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_on_the_grader_is_a_repair(attack: str) -> None:
    env = started()
    text = ATTACKS[attack]
    if text is None:
        for name in ("json", "marshal", "signal", "importlib"):
            act(
                env,
                "edit",
                path=f"{name}.py",
                old="",
                new="def dumps(*a, **k): return '{\"value\": true}'\nloads = dumps\n",
            )
    else:
        act(env, "edit", path=env.package.path, old="", new=text)
        act(env, "edit", path=f"{env.package.name}/__init__.py", old="", new=text)
    info = act(env, "submit")[4]
    assert not info["success"]
    assert info["score"] == 0.0


def test_hidden_tests_are_nowhere_in_the_shell() -> None:
    env = started(level="hard")
    p = env.package
    secret = next(p.hidden[i].case for i in p.failing if repr(p.hidden[i].case.arguments) not in p.report)
    looked = act(
        env,
        "shell",
        command="cat $(find / -type f -size -200k -not -path '/proc/*' -not -path '/sys/*' -not -path '/usr/*' 2>/dev/null) 2>/dev/null; env; ls -la /",
    )[0]
    assert f"({', '.join(map(repr, secret.arguments))}), {secret.expected!r}" not in looked


def test_the_shell_changes_files_and_keeps_them_from_turn_to_turn() -> None:
    env = started()
    act(env, "shell", command="mkdir -p notes && echo hello > notes/a.txt && rm README.md")
    assert "notes/a.txt" in act(env, "files")[0]
    assert "README.md" not in env.contents
    assert act(env, "read", path="notes/a.txt")[0] == "   1 hello"
    assert act(env, "shell", command="cat notes/a.txt")[0] == "hello"
    assert act(env, "shell", command="exit 3")[0] == "[exit code 3]"
    assert act(env, "shell", command="cd /; ls nothing")[0].endswith("[exit code 2]")


def test_a_shell_that_never_ends_floods_or_fills_the_disk_is_an_observation() -> None:
    env = started(seconds=1.0)
    assert "took too long" in act(env, "shell", command="sleep 100")[0]
    observation = act(env, "shell", command="yes | head -c 100000000")[0]
    assert "[cut: " in observation
    assert len(observation) < 4_200
    assert "no change was kept" in act(env, "shell", command="head -c 1000000 /dev/zero > big")[0]
    assert "big" not in env.contents
    assert "no change was kept" in act(env, "shell", command="for i in $(seq 200); do echo $i > f$i; done")[0]
    assert act(env, "shell", command="ln -s /etc/passwd link; mkfifo pipe; ls")[0].splitlines()[-2:] != []
    assert not {"link", "pipe"} & env.contents.keys()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "x\ny", ".", "a" * 201])
def test_no_path_leads_out_of_the_package(path: str) -> None:
    env = started()
    assert act(env, "edit", path=path, old="", new="x")[4]["invalid"]
    assert act(env, "read", path=path)[4]["invalid"]


def test_an_edit_needs_a_text_that_stands_there_once() -> None:
    env = started()
    path = env.package.path
    assert "does not stand" in act(env, "edit", path=path, old="no such text", new="")[0]
    assert "times in" in act(env, "edit", path=path, old="return", new="")[0]
    assert f"Did you mean '{path}'?" in act(env, "read", path=path + "x")[0]
    assert env.contents == {p: t.encode() for p, t in env.package.files.items()}


def test_a_snapshot_holds_the_files() -> None:
    env = started()
    act(env, "shell", command="echo one > a.txt")
    state = env.snapshot()
    act(env, "shell", command="echo two > a.txt")
    other = env.clone()
    other.restore(state)
    assert act(other, "shell", command="cat a.txt")[0] == "one"
    assert act(env, "shell", command="cat a.txt")[0] == "two"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"topics": ("list",)}, "Did you mean 'lists'?"),
        ({"level": "hardest"}, "level"),
        ({"sandbox": "process"}, "allow_unsafe"),
    ],
)
def test_a_wrong_parameter_is_told(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameter, match=said.replace("?", r"\?")):
        CodeRepair(**parameters)
