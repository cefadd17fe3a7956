"""The families of generated programming tasks: solvable, told from their mutants, and apart between splits."""

from __future__ import annotations

import ast
from collections import Counter
from itertools import combinations

import pytest

from turnwise.envs.code.families import FAMILIES
from turnwise.envs.code.generator import (
    HIDDEN,
    VISIBLE,
    callable_of,
    generate,
    has_io,
    main_of,
    printed,
    written,
)
from turnwise.envs.code.problems import Case, Exchange
from turnwise.envs.code.values import same, same_output


def fails(source: str, name: str, case: Case) -> bool:
    """Whether a program of our own gets a case wrong, found by running it here."""
    arguments = ast.literal_eval(repr(case.arguments))
    try:
        return not same(callable_of(source, name)(*arguments), case.expected)
    except Exception:
        return True


def test_there_are_at_least_sixty_families_over_a_dozen_topics_and_three_levels() -> None:
    assert len(FAMILIES) >= 60
    assert len({f.topic for f in FAMILIES.values()}) >= 12
    levels = Counter(f.difficulty for f in FAMILIES.values())
    assert set(levels) == {"easy", "medium", "hard"}
    assert min(levels.values()) >= 10


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_solution_that_passes_and_three_mutants_that_fail_hidden_tests(name: str) -> None:
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        problem = generate(name, split, seed, "function")
        assert "$" not in problem.statement + problem.reference
        assert len(problem.visible) == VISIBLE < HIDDEN <= len(problem.hidden)
        assert not any(case in problem.hidden for case in problem.visible)
        assert len(set(problem.mutants)) == len(problem.mutants) >= 3
        assert not any(fails(problem.reference, name, c) for c in (*problem.visible, *problem.hidden))
        for mutant in problem.mutants:
            assert any(fails(mutant, name, case) for case in problem.hidden), mutant


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_for_every_variant(name: str) -> None:
    from turnwise.envs.code.generator import _problem

    for split, variants in FAMILIES[name].variants.items():
        for variant in range(len(variants)):
            for seed in range(3):
                problem = _problem(name, split, variant, seed, "function")
                assert not any(fails(problem.reference, name, c) for c in (*problem.visible, *problem.hidden))
                for mutant in problem.mutants:
                    assert any(fails(mutant, name, case) for case in problem.hidden), mutant


def test_no_two_splits_share_a_variant_and_each_has_some() -> None:
    for family in FAMILIES.values():
        programs = {s: {family.solution(v) for v in vs} for s, vs in family.variants.items()}
        assert all(programs.values()), family.name
        for a, b in combinations(programs.values(), 2):
            assert not a & b, family.name


def test_a_seed_gives_the_same_problem_and_others_give_others() -> None:
    from turnwise.envs.code.generator import _problem

    for name in list(FAMILIES)[::9]:
        first = generate(name, "train", 7, "function")
        _problem.cache_clear()
        assert generate(name, "train", 7, "function") == first
        assert len({repr(generate(name, "train", seed, "function").hidden) for seed in range(5)}) == 5


def run_here(
    source: str, stdin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    lines = iter(stdin.splitlines())
    monkeypatch.setattr("builtins.input", lambda: next(lines))
    capsys.readouterr()
    exec(compile(source, "<io>", "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if has_io(family)])
def test_the_io_form_reads_what_the_layout_says_and_prints_what_is_expected(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = generate(name, "test", 3, "io")
    assert "Standard input:" in problem.statement
    assert "Print " in problem.statement
    for test in (*problem.visible, *problem.hidden):
        assert isinstance(test, Exchange)
        assert same_output(test.expected, run_here(problem.reference, test.stdin, monkeypatch, capsys))


def test_nearly_all_families_have_both_forms() -> None:
    assert sum(map(has_io, FAMILIES.values())) >= 60


def test_arguments_and_results_are_written_on_lines() -> None:
    family = FAMILIES["within_steps"]
    assert written(family, (4, [(0, 1), (2, 3)])) == "4\n2\n0 1\n2 3\n"
    assert "n = int(input())" in main_of(family)
    assert written(FAMILIES["merge_counts"], ({"a": 1}, {})) == "1\n1 a\n0\n"
    assert printed({"b": 2, "a": -1}, "dict[str, int]") == "a -1\nb 2\n"
    assert printed([[1, 2], []], "list[list[int]]") == "1 2\n\n"
    assert printed(None, "int | None") == "None\n"
