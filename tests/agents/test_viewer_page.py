"""The viewer's page in a real browser."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import turnwise as tw
from turnwise.agents.viewer.export import export
from turnwise.agents.viewer.library import Library
from turnwise.agents.viewer.server import Api, Viewer
from turnwise.envs.trajectory import Trajectory, Turn, write_trajectories


def _missing() -> str | None:
    for name in ("playwright", "starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; pip install 'turnwise[browser]'"
    from turnwise.envs.webshop.browser import BrowserFailure, find_chromium

    try:
        find_chromium()
    except BrowserFailure as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if why := _missing():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    from turnwise.envs.webshop.browser import find_chromium

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(find_chromium()), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path_factory.mktemp("cache")))


EXPECTED = re.compile("ERR_CONNECTION_REFUSED")
"""What the browser itself says of a server that a test has stopped."""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test where a script fails, or asks anybody but this machine's server."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on(
        "console",
        lambda m: wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else None,
    )
    made.on(
        "request",
        lambda r: wrong.append(r.url) if not re.match(r"(http://127\.0\.0\.1:|file:|data:)", r.url) else None,
    )
    made.set_default_timeout(15_000)
    yield made
    context.close()
    assert [text for text in wrong if not EXPECTED.search(text)] == []


@pytest.fixture
def viewed(page: Any) -> Iterator[Callable[..., Any]]:
    """Open the viewer on some paths, at an address behind the #."""
    viewers: list[Viewer] = []

    def open_(*paths: Path, at: str = "", seconds: float = 0.2) -> Any:
        viewers.append(Viewer(Library(paths), seconds=seconds))
        page.goto(viewers[-1].url + at)
        return page

    yield open_
    for viewer in viewers:
        viewer.close()


def episode(
    n: int, *, action: str = "move[down]", observation: str = "left ice", task: str = "", turns: int = 0
) -> Trajectory:
    """The nth of a group of 4; all begin in one state, and those of odd number meet again in the third turn."""
    turns = turns or 2 + n % 5
    keys = ["start", f"way-{n}", "meet" if n % 2 else f"apart-{n}", *(f"{n}-{k}" for k in range(3, turns))]
    logs = [-0.1, -2.5]
    return Trajectory(
        "FrozenLake-v1",
        task or f"train-{n // 4}",
        "train",
        n // 4,
        "terminated" if n % 3 else "truncated",
        float(n % 3 == 1),
        n % 3 == 1,
        [
            Turn(
                f"{observation} {k}",
                action,
                tool="move",
                arguments={"direction": "down"},
                reward=0.25 * k,
                rewards={"env": 0.25 * k, "info_gain": -0.1},
                advantage=0.5 - k,
                state_key=keys[k],
                invalid=k == 1 and n % 2 == 0,
                action_ids=[3, 4],
                action_log_probs=logs,
            )
            for k in range(turns)
        ],
        group=n // 4,
        sample=n % 4,
        system="You are on a lake.",
        final_observation="The end.",
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two steps with 12 episodes each, and its metrics."""
    folder = tmp_path / "run"
    for step in (1, 2):
        write_trajectories(folder / "trajectories" / f"step-{step}.jsonl", map(episode, range(12)))
    (folder / "config.yaml").write_text("env:\n  id: FrozenLake-v1\ncredit:\n  name: gigpo\nseed: 0\n")
    lines = [{"step": n, "success": n / 10, "turns": 5 - n / 5} for n in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def until(page: Any, condition: str, seconds: float = 60.0) -> None:
    """Wait for a condition in JavaScript; Playwright's own waiting is forbidden by the page's policy."""
    limit = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < limit, f"{condition}; figures: {page.locator('.figures').all_inner_texts()}"
        page.wait_for_timeout(30)


def rows(page: Any) -> Any:
    return page.locator(".row:not(.waiting)")


def test_it_opens_with_curves_and_a_click_on_a_step_leads_to_its_trajectories(viewed: Any, run: Path) -> None:
    page = viewed(run)
    page.locator("figure.chart").first.wait_for()
    assert page.locator("figure.chart b").all_inner_texts() == ["success", "turns"]
    assert page.locator("figure.chart path.curve").count() == 2
    chart = page.locator("figure.chart svg").first
    chart.hover(position={"x": 90, "y": 60})
    assert page.locator(".readout").first.inner_text().startswith("step")
    chart.click(position={"x": 90, "y": 60})
    page.wait_for_url(re.compile(r"#/trajectories\?q=step"))
    assert page.locator(".figures b").first.inner_text() == "12"


def test_every_metric_is_drawn_whatever_its_values(viewed: Any, run: Path) -> None:
    odd = {
        "nearly": lambda n: 0.1 + 1e-17 * n,
        "equal": lambda n: 256.0,
        "zero": lambda n: 0.0,
        "tiny": lambda n: 1e-300 * n,
        "huge": lambda n: 1e300 * (-1) ** n,
        "close": lambda n: 1e6 + 1e-9 * n,
        "below": lambda n: -3.0 - n,
        "missing": lambda n: None if n % 2 else 1.0 * n,
        "once": lambda n: 2.0 if n == 4 else None,
        "reward/x/mean": lambda n: n / 3,
    }
    lines = [{"step": n, **{name: value(n) for name, value in odd.items()}} for n in range(1, 9)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = viewed(run)
    page.get_by_role("button", name="All metrics").click()
    until(page, f"document.querySelectorAll('figure.chart path.curve').length === {len(odd)}")
    page.get_by_role("button", name="Smooth").click()
    drawn = page.locator("figure.chart svg").evaluate_all("all => all.map(e => e.outerHTML).join()")
    assert "NaN" not in drawn
    assert "Infinity" not in drawn
    assert (
        page.locator("figure.chart svg").evaluate_all(
            "all => Math.max(...all.map(e => e.querySelectorAll('.tick').length))"
        )
        <= 12
    )
    page.get_by_label("Find a metric").fill("near")
    until(page, "document.querySelectorAll('figure.chart').length === 1")


def test_filters_narrow_the_table_and_stand_in_the_address(viewed: Any, run: Path) -> None:
    page = viewed(run, at="#/trajectories")
    rows(page).first.wait_for()
    assert page.locator(".figures b").first.inner_text() == "24"
    page.keyboard.press("/")
    page.keyboard.type("success:yes turns>3")
    expected = [n for n in range(12) if n % 3 == 1 and 2 + n % 5 > 3] * 2
    until(page, f"document.querySelectorAll('.row').length === {len(expected)}")
    assert "success%3Ayes" in page.url
    page.reload()
    until(page, f"document.querySelectorAll('.row').length === {len(expected)}")
    assert page.locator("input.filter").input_value() == "success:yes turns>3"
    page.locator("input.filter").fill("sucess:yes")
    page.locator("p[role=alert]").get_by_text("Did you mean 'success'?").wait_for()
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelector('.figures b').textContent === '24'")
    page.get_by_label("Step", exact=True).select_option("2")
    until(page, "document.querySelector('.figures b').textContent === '12'")
    assert page.locator("input.filter").input_value() == "step:2"
    page.locator("input.filter").fill("nothing like it")
    page.get_by_text("Nothing fits this filter.").wait_for()


def test_words_are_searched_for_in_what_was_said(viewed: Any, run: Path) -> None:
    write_trajectories(
        run / "trajectories" / "step-3.jsonl", [episode(0, action="search[Red Shoes]"), episode(1)]
    )
    page = viewed(run, at='#/trajectories?q="red shoes"')
    until(page, "document.querySelectorAll('.row').length === 1")
    rows(page).first.click()
    assert "search[Red Shoes]" in page.locator("#turn-1").inner_text()


def test_a_link_leads_to_a_trajectory_and_turn_and_survives_a_reload(viewed: Any, run: Path) -> None:
    page = viewed(run, at="#/run/run/t/step-1:4/turn/3")
    for _ in range(2):
        page.locator("#turn-3.cursor").wait_for()
        box = page.locator("#turn-3").bounding_box()
        assert box["y"] < 800
        assert page.locator(".turn:not(.end)").count() == 5
        assert page.url.endswith("#/run/run/t/step-1:4/turn/3")
        page.reload()


def test_a_link_that_leads_nowhere_says_so(viewed: Any, run: Path) -> None:
    page = viewed(run, at="#/run/run/t/step-1:400")
    page.get_by_text("there is no trajectory run/step-1:400").wait_for()


def test_a_turn_shows_what_it_was_paid(viewed: Any, run: Path) -> None:
    page = viewed(run, at="#/run/run/t/step-1:4")
    turn = page.locator("#turn-2")
    turn.wait_for()
    figures = {
        m.locator(".name").inner_text(): m.locator(".value").inner_text()
        for m in turn.locator(".measure").all()
    }
    assert figures == {"env": "0.25", "info_gain": "−0.10", "advantage": "−0.50", "surprise": "1.30"}
    assert turn.locator(".call code").inner_text() == 'move(direction="down")'
    assert "way-3" in turn.inner_text()
    page.get_by_text("System prompt and tools").click()
    assert page.get_by_text("You are on a lake.").is_visible()


def test_keys_lead_everywhere(viewed: Any, run: Path) -> None:
    page = viewed(run)
    page.locator("figure.chart").first.wait_for()
    page.keyboard.press("2")
    rows(page).first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert rows(page).nth(1).get_attribute("class").split()[-1] == "cursor"
    page.keyboard.press("Enter")
    page.locator("#turn-1").wait_for()
    assert "t/step-2:2" in page.url
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.wait_for_url(re.compile("turn/2"))
    page.get_by_text("2 of 24").wait_for()
    page.keyboard.press("]")
    page.wait_for_url(re.compile("step-2:3"))
    page.get_by_text("3 of 24").wait_for()
    page.keyboard.press("[")
    page.wait_for_url(re.compile("step-2:2"))
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    page.locator("#turn-1").wait_for()
    page.keyboard.press("s")
    page.wait_for_url(re.compile("#/beside"))
    page.keyboard.press("Escape")
    page.locator("#turn-1").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_url(re.compile("#/trajectories"))


def test_log_probs_are_drawn_when_asked_for_and_without_a_tokenizer_the_reason_is_said(
    viewed: Any, run: Path
) -> None:
    page = viewed(run, at="#/run/run/t/step-1:4")
    page.locator("#turn-1").wait_for()
    assert page.locator(".token").count() == 0
    page.locator("#turn-1").get_by_role("button", name="log-probs").click()
    page.locator("#turn-1 .token").nth(1).wait_for()
    assert page.locator("#turn-1 .token").all_inner_texts() == ["3", "4"]
    assert "no checkpoint" in page.locator("#turn-1 .heat").inner_text()
    heats = [
        page.locator("#turn-1 .token").nth(n).evaluate("e => parseFloat(e.style.getPropertyValue('--heat'))")
        for n in (0, 1)
    ]
    assert heats[0] < heats[1]


def test_a_group_stands_side_by_side_and_equal_states_are_joined(viewed: Any, run: Path) -> None:
    page = viewed(run, at="#/run/run/t/step-1:2")
    page.get_by_role("link", name="Side by side").click()
    page.locator(".board").wait_for()
    assert page.locator(".column-head").count() == 4
    # All four start alike; the second and the fourth meet again in the third turn.
    names = page.locator(".anchor-name").all_inner_texts()
    assert sorted(names) == ["a"] * 4 + ["b"] * 2
    tops = {
        name: {
            round(c.bounding_box()["y"])
            for c in page.locator(".cell-turn", has=page.locator(f".anchor-name:text-is('{name}')")).all()
        }
        for name in ("a", "b")
    }
    assert [len(v) for v in tops.values()] == [1, 1], "equal states stand on one line"
    assert page.locator("path.join").count() == 3 + 1


def test_rows_are_aligned_where_states_coincide(viewed: Any, run: Path) -> None:
    page = viewed(run)
    align = "columns => import('/static/beside.js').then(m => m.align(columns))"
    assert page.evaluate(align, [["a", "b", "c"], ["a", "x", "y", "c"], ["c"]]) == [
        [0, 0, None],
        [1, 1, None],
        [None, 2, None],
        [2, 3, 0],
    ]
    assert page.evaluate(align, [["a", "b"], ["b", "a"]]) in (
        [[None, 0], [0, 1], [1, None]],
        [[0, None], [1, 0], [None, 1]],
    )
    assert page.evaluate(align, [["", ""], [""]]) == [[0, 0], [1, None]], "no key is no state in common"
    # Each turn stands once, in order, whatever the columns.
    columns = [["a", "b", "a", "c"], ["b", "a", "", "c", "c"], ["c", "a"], [], ["z"] * 3]
    found = page.evaluate(align, columns)
    for c, keys in enumerate(columns):
        assert [row[c] for row in found if row[c] is not None] == list(range(len(keys)))


def test_two_checkpoints_on_a_task_are_compared(viewed: Any, run: Path) -> None:
    page = viewed(run, at="#/run/run/t/step-1:1")
    page.get_by_text("Same task, step 2").wait_for()
    page.get_by_role("link", name="Compare").click()
    page.locator(".board").wait_for()
    heads = page.locator(".column-head a").all_inner_texts()
    assert heads[0] == "step 1 · sample 0"
    assert heads[1:] == [f"step 2 · sample {n}" for n in range(4)]


ATTACK = (
    "<script>window.hacked=1</script><img src=x onerror=\"window.hacked=1\"><svg onload='window.hacked=1'>"
)


def attacker() -> Trajectory:
    t = episode(0, action=ATTACK, observation=ATTACK, task=ATTACK)
    t.system = t.final_observation = t.agent = t.difficulty = t.family = ATTACK
    t.env_id, t.reference, t.env_kwargs = ATTACK, [ATTACK], {ATTACK: ATTACK}
    for turn in t.turns:
        turn.tool, turn.arguments, turn.rewards, turn.state_key = (
            ATTACK,
            {ATTACK: ATTACK},
            {ATTACK: 1.0},
            ATTACK,
        )
    return t


def test_what_a_model_writes_is_text_and_never_runs(viewed: Any, tmp_path: Path, page: Any) -> None:
    path = tmp_path / "attack.jsonl"
    write_trajectories(path, [attacker(), attacker()])

    def harmless() -> None:
        page.wait_for_timeout(100)
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script").count() == 0

    viewed(path, at="#/trajectories")
    rows(page).first.wait_for()
    assert ATTACK in rows(page).first.inner_text()
    harmless()
    rows(page).first.click()
    page.locator("#turn-1").wait_for()
    assert page.locator("#turn-1 .action pre").inner_text() == ATTACK
    assert page.locator("#turn-1 .observation pre").inner_text() == f"{ATTACK} 0"
    harmless()
    page.keyboard.press("s")
    page.locator(".board").wait_for()
    harmless()
    held = Library([path])
    export(held, tmp_path / "page.html")
    page.goto((tmp_path / "page.html").as_uri() + "#/run/attack/t/attack:1")
    page.locator("#turn-1").wait_for()
    assert page.locator("#turn-1 .action pre").inner_text() == ATTACK
    harmless()


def test_a_running_training_grows_in_the_open_page(viewed: Any, run: Path) -> None:
    page = viewed(run, at="#/trajectories")
    rows(page).first.wait_for()
    page.evaluate("window.kept = true")
    whole = episode(0).to_json() + "\n"
    path = run / "trajectories" / "step-3.jsonl"
    path.write_text(whole + whole[:100])
    until(page, "document.querySelector('.figures b').textContent === '25'")
    page.get_by_text("ends in the middle of a line").wait_for()
    with path.open("a") as file:
        file.write(whole[100:])
    until(page, "document.querySelector('.figures b').textContent === '26'")
    page.get_by_text("ends in the middle of a line").wait_for(state="detached")
    assert rows(page).first.locator(".c-step").inner_text() == "3"
    page.keyboard.press("1")
    page.locator("figure.chart").first.wait_for()
    end = "document.querySelector('path.curve').getAttribute('d').split('L').length"
    assert page.evaluate(end) == 8
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "success": 0.9, "turns": 3}\n')
    until(page, f"{end} === 9")
    assert page.get_by_text("live").is_visible()
    assert page.evaluate("window.kept") is True, "without a reload"


def test_a_hundred_thousand_trajectories(viewed: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    head, tail = episode(1, turns=2, task="MARK").to_json().split("MARK")
    with path.open("w") as file:
        for start in range(0, 100_000, 1000):
            file.write("".join(f"{head}task-{n}{tail}\n" for n in range(start, start + 1000)))
    began = time.perf_counter()
    page = viewed(path)
    rows(page).first.wait_for()
    first = time.perf_counter() - began
    until(page, "document.querySelector('.figures b').textContent === '100,000'")
    assert first < 10
    assert rows(page).count() < 60, "only what is in sight is in the page"
    page.keyboard.press("End")
    page.get_by_text("task-99999", exact=True).wait_for()
    page.locator(".list").evaluate("e => { e.scrollTop = e.scrollHeight / 2 }")
    page.get_by_text(re.compile("task-500[0-9][0-9]$")).first.wait_for()
    assert rows(page).count() < 60
    page.locator("input.filter").fill("task:task-77*")
    until(page, "document.querySelector('.figures b').textContent === '1,111'")
    page.locator("input.filter").fill("task-98765")
    until(page, "document.querySelectorAll('.row:not(.waiting)').length === 1")


@pytest.mark.parametrize(
    "q",
    [
        "",
        "success:no",
        "-success:no turns>2",
        "step:2 score<1",
        "status:truncated,failed",
        "env:frozen*",
        "turns:..3",
        'ice "the end"',
        "file:step-1 -sample:0",
        "reward:0.25,1.5",
    ],
)
def test_the_exported_page_filters_as_the_server_does(q: str, exported: tuple[Any, Api]) -> None:
    page, api = exported
    while (expected := api.rows(q, "-step", 0, 1000))["searched"] < 1:
        time.sleep(0.01)
    found = page.evaluate("q => import_data.rows({ q, sort: '-step', start: 0, count: 1000 })", q)
    assert [r["at"] for r in found["rows"]] == [r["at"] for r in expected["rows"]]
    assert found["figures"] == pytest.approx(expected["figures"])


@pytest.fixture(scope="module")
def exported(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Api]]:
    """The data module as the exported page has it, beside the server's answers for the same run."""
    folder = tmp_path_factory.mktemp("export")
    for step in (1, 2):
        write_trajectories(folder / "run" / "trajectories" / f"step-{step}.jsonl", map(episode, range(12)))
    held = Library([folder / "run"])
    export(held, folder / "page.html")
    html = (folder / "page.html").read_text()
    # The module's door is opened for the test, so the policy that names its digest is left out.
    html = re.sub(r"<meta http-equiv[^>]*>", "", html).replace(
        "const pictures = ",
        "globalThis.import_data = { rows: (p) => data.api('rows', p) };\nconst pictures = ",
        1,
    )
    (folder / "open.html").write_text(html)
    opened = browser.new_page()
    opened.goto((folder / "open.html").as_uri())
    until(opened, "globalThis.import_data !== undefined")
    yield opened, Api(held)
    opened.close()


def test_the_exported_page_needs_no_server(page: Any, run: Path, tmp_path: Path) -> None:
    export(Library([run]), tmp_path / "page.html", q="step:2")
    page.goto((tmp_path / "page.html").as_uri())
    page.locator("figure.chart").first.wait_for()
    page.keyboard.press("2")
    rows(page).first.wait_for()
    assert page.locator(".figures b").first.inner_text() == "12"
    page.locator("input.filter").fill("success:yes")
    until(page, "document.querySelectorAll('.row').length === 4")
    rows(page).first.click()
    page.locator("#turn-1").get_by_role("button", name="log-probs").click()
    page.locator("#turn-1 .token").first.wait_for()
    page.keyboard.press("s")
    page.locator(".board").wait_for()
    page.reload()
    page.locator(".board").wait_for()


@pytest.mark.parametrize(
    ("env_id", "parameters", "seen"),
    [
        ("Sokoban-v1", {}, "rect.box"),
        ("FrozenLake-v1", {}, "rect.hole"),
        ("WebShop-v1", {"products": 120}, ".shop-button"),
    ],
)
def test_an_environment_that_can_draw_is_drawn_from_the_file(
    env_id: str, parameters: Any, seen: str, viewed: Any, tmp_path: Path
) -> None:
    env = tw.make(env_id, format="bracket", **parameters)
    result = env.rollout(tw.agents.ExpertAgent(noise=0.2), episodes=1, seed=3)
    result.save(tmp_path / "out")
    page = viewed(tmp_path / "out", at="#/run/out/t/trajectories:1")
    page.locator(f".turn:not(.end) {seen}").first.wait_for()
    drawn = page.locator(".turn:not(.end) .grid, .turn:not(.end) .shop").count()
    assert drawn == len(result.trajectories[0].turns)
    if env_id != "WebShop-v1":
        # The player of the picture stands where the text's @ is.
        place = page.locator("#turn-1 circle.player").evaluate(
            "e => e.parentNode.getAttribute('transform').match(/[0-9]+/g).map(Number)"
        )
        board = [line.split() for line in result.trajectories[0].turns[0].observation.split("\n")]
        assert board[place[1] // 28][place[0] // 28] in "@+"


@pytest.mark.parametrize(
    "at", ["#/curves", "#/trajectories", "#/run/run/t/step-1:4", "#/beside?t=run/step-1:5&t=run/step-1:6"]
)
def test_a_narrow_window_and_the_dark_lose_nothing(at: str, viewed: Any, run: Path, page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme="dark")
    viewed(run, at=at)
    page.locator(".chart, .row, .turn, .board").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(3):
        page.keyboard.press("t")
        if page.locator("#bar").get_by_text("light", exact=True).count():
            break
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    page.locator(".chart, .row, .turn, .board").first.wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_a_server_that_is_gone_is_said(page: Any, run: Path) -> None:
    viewer = Viewer(Library([run]))
    page.goto(viewer.url)
    page.locator("figure.chart").first.wait_for()
    viewer.close()
    page.get_by_text("Is `turnwise view` still running?").wait_for()


def test_an_empty_file_is_an_empty_table(viewed: Any, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    page = viewed(tmp_path / "none.jsonl")
    page.get_by_text("No trajectories yet.").wait_for()
