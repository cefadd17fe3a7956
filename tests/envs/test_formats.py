"""Formats: what is written is read back, nothing raises, no text costs more than its length."""

from __future__ import annotations

import time
import warnings
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import turnwise as tw
from turnwise.envs import FORMATS, Call
from turnwise.envs.errors import UnknownFormat
from turnwise.envs.formats import Malformed, answer_of, tool_format, writable


class Shop(tw.TurnEnv):
    """Tools of all shapes."""

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        return ""

    @tw.tool
    def search(self, query: str) -> str:
        """Search.

        Args:
            query: words.
        """
        return query

    @tw.tool
    def order(self, item: str, count: int, note: str) -> str:
        """Order."""
        return item

    @tw.tool
    def filter(
        self, tags: list[str], level: Literal[1, 2], limit: int | None = None, wide: bool = True
    ) -> str:
        """Filter."""
        return ""

    @tw.tool
    def page(self, number: int = 1) -> str:
        """Turn the page."""
        return ""

    @tw.tool
    def leave(self) -> str:
        """Leave."""
        return ""


class Code(tw.TurnEnv):
    """Runs code."""

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        return ""

    @tw.tool
    def run(self, code: str) -> str:
        """Run code."""
        return code

    @tw.tool
    def submit(self, answer: int) -> str:
        """Submit."""
        return ""


TOOLS = Shop.tools
NAMES = list(FORMATS)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def parse(name: str, text: str, tools: Any = TOOLS) -> Any:
    return FORMATS[name].parse(text, tools)


CALLS = st.one_of(
    st.builds(lambda q: Call("search", {"query": q}), TEXTS),
    st.builds(lambda i, c, n: Call("order", {"item": i, "count": c, "note": n}), TEXTS, st.integers(), TEXTS),
    st.builds(
        lambda t, v, extra: Call("filter", {"tags": t, "level": v, **extra}),
        st.lists(TEXTS, max_size=3),
        st.sampled_from([1, 2]),
        st.fixed_dictionaries({}, optional={"limit": st.none() | st.integers(), "wide": st.booleans()}),
    ),
    st.builds(lambda n: Call("page", n), st.fixed_dictionaries({}, optional={"number": st.integers()})),
    st.just(Call("leave", {})),
)


def meant(call: Call) -> dict[str, Any]:
    """What the tool is called with, defaults included."""
    checked = TOOLS[call.tool].validate(call.arguments)
    assert isinstance(checked, dict), checked
    return {**TOOLS[call.tool].defaults, **checked}


@pytest.mark.parametrize("name", NAMES)
@given(call=CALLS, before=st.sampled_from(["", "I think.\n", "<think>guess search[x]</think>\n"]))
@example(call=Call("search", {"query": "</tool_call><tool_call>"}), before="")
@example(call=Call("search", {"query": "a]b[c```\n````python\n"}), before="")
@example(call=Call("order", {"item": '"a", b', "count": -1, "note": " x, ]"}), before="")
@example(call=Call("order", {"item": "[1", "count": 1, "note": '{"a": 1}'}), before="")
@example(call=Call("filter", {"tags": ["a,b", "]", '"'], "level": 2, "wide": False}), before="")
def test_what_is_written_is_read_back(name: str, call: Call, before: str) -> None:
    if name == "react" and any("Action:" in str(v) for v in call.arguments.values()):
        return  # the last Action: counts, as the paper's prompts want it
    form = FORMATS[name]
    found = form.parse(answer_of(before + form.render(call, TOOLS)), TOOLS)
    assert isinstance(found, Call), found
    assert found.tool == call.tool
    assert meant(found) == meant(call)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("```")
@example("x\n\n")
@example("print('````')\n")
def test_code_is_read_back_to_the_letter(code: str) -> None:
    form = FORMATS["python"]
    call = Call("run", {"code": code})
    found = form.parse(form.render(call, Code.tools), Code.tools)
    if isinstance(found, Call) and found.tool == "submit":
        return  # the code is a call of the other tool
    assert found == call


@pytest.mark.parametrize("name", NAMES)
@given(
    text=st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                '{"name": "search", ',
                '"arguments": ',
                "{",
                "}",
                "[",
                "]",
                '"',
                "search[",
                ",",
                "order[",
                "Action:",
                "```python\n",
                "```",
                "search(",
                ")",
                "query=",
                "'",
                "\\ud800",
                "\n",
                "filter[",
                "1e999",
            ]
        ),
        max_size=14,
    ).map("".join)
)
def test_no_text_raises(name: str, text: str) -> None:
    for tools in (TOOLS, Code.tools):
        found = FORMATS[name].parse(text, tools)
        assert isinstance(found, Call | Malformed)
        env = (Shop if tools is TOOLS else Code)(format=name)
        env.reset(seed=0)
        observation, _, _, _, info = env.step(text)
        assert observation.encode("utf-8") is not None
        assert info["invalid"] or info["call"] is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "a[" * 100_000,
        "[" * 300_000,
        "```" * 100_000,
        "`" * 300_000,
        "```\n" * 80_000,
        "```python" + " " * 300_000,
        "```python\n" + "(" * 300_000 + "\n```",
        "```python\n" + "-" * 300_000 + "1\n```",
        "```python\nsearch(" + "1+" * 100_000 + "1)\n```",
        "<tool_call>" * 30_000,
        "<tool_call>" + "[" * 300_000 + "</tool_call>",
        '<tool_call>{"name": "search", "arguments": {"query": ' + "9" * 300_000 + "}}</tool_call>",
        "order[" + '"' * 100_000 + "]",
        "order[" + "[" * 100_000 + ",1,2]",
        "filter[" + "{" * 100_000 + "]",
        "Action:" * 50_000,
    ],
)
def test_a_huge_text_is_read_in_time_that_grows_with_its_length(name: str, text: str) -> None:
    began = time.perf_counter()
    assert isinstance(parse(name, text), Call | Malformed)
    assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hermes", "search[x]", "no <tool_call> found"),
        ("hermes", "<tool_call>{", "is not closed"),
        ("hermes", "<tool_call>{</tool_call>", "is not JSON"),
        ("hermes", '<tool_call>"search"</tool_call>', 'an object with "name" and "arguments"'),
        (
            "hermes",
            '<tool_call>{"name": "search", "arguments": []}</tool_call>',
            '"arguments" must be an object',
        ),
        ("hermes", "<tool_call>{}</tool_call><tool_call>{}</tool_call>", "more than one"),
        ("bracket", "just words", "no call found"),
        ("bracket", "search[red", "not closed"),
        ("bracket", "leave[now]", "leave takes no argument"),
        ("react", "search[red]", "no line starts with Action:"),
        ("python", "search('red')", "no fenced python block"),
        ("python", "```python\nx = 1\n```", "one call and nothing else"),
        ("python", "```python\nshop.search('red')\n```", "by its name"),
        ("python", "```python\nsearch(query)\n```", "must be literals"),
        ("python", "```python\nsearch({1, 2})\n```", "must be literals"),
        ("python", "```python\nsearch(b'x')\n```", "must be literals"),
        ("python", "```python\nsearch(*['x'])\n```", "must be literals"),
        ("python", "```python\nsearch(**{'query': 1})\n```", "written out"),
        ("python", "```python\nsearch('a', 'b')\n```", "too many arguments"),
        ("python", "```python\nsearch('a', query='b')\n```", "got 'query' twice"),
        ("python", "```python\nsearch('a\n```", "is not Python"),
    ],
)
def test_a_malformed_action_says_what_is_wrong(name: str, text: str, said: str) -> None:
    found = parse(name, text)
    assert isinstance(found, Malformed)
    assert said in found.why
    assert "0x" not in found.why  # an address would differ from run to run


@pytest.mark.parametrize(
    ("name", "text", "call"),
    [
        ("bracket", "I would search[red shoes] now", Call("search", {"query": "red shoes"})),
        ("bracket", "the list a[0] says search[x[1]]", Call("search", {"query": "x[1]"})),
        ("bracket", 'search["quoted"]', Call("search", {"query": '"quoted"'})),
        (
            "bracket",
            "order[shoe, 2, red, please]",
            Call("order", {"item": "shoe", "count": "2", "note": "red, please"}),
        ),
        ("bracket", 'order["a, b", 2, c]', Call("order", {"item": "a, b", "count": "2", "note": "c"})),
        (
            "bracket",
            'order["a" and b, 2, c]',
            Call("order", {"item": '"a" and b', "count": "2", "note": "c"}),
        ),
        ("bracket", "order[shoe]", Call("order", {"item": "shoe"})),
        ("bracket", 'filter[["a", "b"], 2, null, false]', None),
        ("bracket", "page[]", Call("page", {})),
        ("bracket", "leave[ ]", Call("leave", {})),
        ("bracket", "dance[1]", Call("dance", {})),
        ("react", "Thought: Action: none\nAction: search[a]", Call("search", {"query": "a"})),
        ("react", "Thought: so Action: search[a]", Call("search", {"query": "a"})),
        ("react", "Action: search[a]\nAction: leave[]", Call("leave", {})),
        ("python", "text\n```\nsearch('a')\n```", Call("search", {"query": "a"})),
        ("python", "```py\nleave()\n```\n```python\nsearch(query='b')\n```", Call("search", {"query": "b"})),
        (
            "python",
            "```python\norder('a', 2, note='n')\n```",
            Call("order", {"item": "a", "count": 2, "note": "n"}),
        ),
        ("python", "```python\ndance(1, x=y)\n```", Call("dance", {})),
        ("hermes", '<tool_call>{"name": "leave"}</tool_call>', Call("leave", {})),
        (
            "hermes",
            '{"name": 1} <tool_call>\n{"name": "leave", "arguments": {}}\n</tool_call> done',
            Call("leave", {}),
        ),
    ],
)
def test_models_are_read_as_they_write(name: str, text: str, call: Call | None) -> None:
    found = parse(name, text)
    if call is None:
        assert meant(found) == {"tags": ["a", "b"], "level": 2, "limit": None, "wide": False}
    else:
        assert found == call


def test_a_block_of_code_goes_to_the_tool_that_takes_code() -> None:
    for block in ("x = 1\nprint(x)", "print(5)", "compute(x=1)", "submit(answer=x)"):
        assert parse("python", f"```python\n{block}\n```", Code.tools) == Call("run", {"code": block})
    assert parse("python", "```python\nsubmit(answer=5)\n```", Code.tools) == Call("submit", {"answer": 5})


def test_escapes_in_strings_neither_warn_nor_depend_on_the_warning_filters() -> None:
    text = "```python\nsearch('\\d+')\n```"
    for action in ("error", "ignore", "always"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)  # type: ignore[arg-type]
            assert parse("python", text) == Call("search", {"query": "\\d+"})
        assert not caught


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>{"name": "search", "arguments": {"query": "a\\ud800b"}}</tool_call>'),
        ("python", "```python\nsearch('a\\ud800b')\n```"),
        ("bracket", "search[a\ud800b]"),
        ("hermes", '<tool_call>{"name": "search", "arguments": {"query": "a\ud800b"}}</tool_call>'),
    ],
)
def test_lone_surrogates_never_reach_a_tool(name: str, text: str) -> None:
    env = Shop(format=name)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(text)
    assert observation == "a?b"
    assert info["call"] == Call("search", {"query": "a?b"})


@pytest.mark.parametrize("name", ["hermes", "python"])
def test_values_that_are_nested_too_deeply_are_malformed(name: str) -> None:
    deep = "[" * 70 + "]" * 70
    text = {
        "hermes": f'<tool_call>{{"name": "search", "arguments": {{"query": {deep}}}}}</tool_call>',
        "python": f"```python\nsearch({deep})\n```",
    }[name]
    assert "nested deeper than 64" in parse(name, text).why


def test_thoughts_of_a_reasoning_model_are_no_calls() -> None:
    env = Shop(format="hermes")
    env.reset(seed=0)
    action = 'Shall I make a <tool_call>?</think>\n<tool_call>{"name": "search", "arguments": {"query": "a"}}</tool_call>'
    assert env.step(action)[0] == "a"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tools", [TOOLS, Code.tools])
def test_the_reminder_is_a_call_that_the_format_reads(name: str, tools: Any) -> None:
    form = FORMATS[name]
    found = form.parse(form.expected(tools), tools)
    assert isinstance(found, Call)
    assert isinstance(tools[found.tool].validate(found.arguments), dict)


@pytest.mark.parametrize("name", NAMES)
def test_the_instructions_name_every_tool_and_parameter(name: str) -> None:
    text = FORMATS[name].instructions(TOOLS)
    for spec in TOOLS.values():
        assert spec.name in text
        assert spec.description.rstrip(".") in text
        assert all(parameter in text for parameter in spec.parameters)


def test_an_unknown_format_is_named_with_the_nearest() -> None:
    with pytest.raises(
        UnknownFormat, match=r"'hermess'. Did you mean 'hermes'\? Known: hermes, bracket, react, python"
    ):
        tool_format("hermess")
    with pytest.raises(UnknownFormat):
        tw.make("HigherLower-v1", format=["hermes"])


def test_writable_text_is_left_as_it_is() -> None:
    for text in ("", "plain", "größer 🙂 \u2028"):
        assert writable(text) == text
    assert writable("a\udc80b") == "a?b"
