"""A typed method becomes a tool: schema, validation, messages for the agent, random arguments."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

import numpy as np
import pytest
from pydantic import BaseModel, Field

import turnwise as tw
from turnwise.envs import ToolSpec
from turnwise.envs.errors import InvalidEnvironment


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    row: int
    column: int = 0


class Everything(tw.TurnEnv):
    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        return ""

    @tw.tool
    def use(
        self,
        text: str,
        number: Annotated[int, Field(ge=3, le=9)],
        side: Literal["left", "right"],
        level: Literal[1, 2],
        names: list[str],
        place: Place,
        colour: Colour = Colour.RED,
        maybe: Optional[int] = None,  # noqa: UP045  # users write it
        share: float = 0.5,
        flag: bool = False,
    ) -> str:
        """Use everything.

        A second paragraph, which the schema leaves out.

        Args:
            text: what to say.
            number: how many,
                in a second line.
            side (str): where.

        Returns:
            nothing: not a parameter.
        """
        return "used"

    @tw.tool
    def wait(self) -> str:
        """Do nothing."""
        return "waited"


USE, WAIT = Everything.tools["use"], Everything.tools["wait"]
GOOD: dict[str, Any] = {
    "text": "a",
    "number": 3,
    "side": "left",
    "level": 2,
    "names": ["x"],
    "place": {"row": 1},
}


def test_schema_holds_types_ranges_choices_defaults_and_descriptions() -> None:
    properties = USE.schema["properties"]
    assert properties["text"] == {"type": "string", "description": "what to say."}
    assert properties["number"] == {
        "type": "integer",
        "minimum": 3,
        "maximum": 9,
        "description": "how many, in a second line.",
    }
    assert properties["side"] == {"type": "string", "enum": ["left", "right"], "description": "where."}
    assert properties["level"] == {"type": "integer", "enum": [1, 2]}
    assert properties["names"] == {"type": "array", "items": {"type": "string"}}
    assert properties["maybe"]["default"] is None
    assert USE.schema["required"] == ["text", "number", "side", "level", "names", "place"]
    assert USE.description == "Use everything."
    assert WAIT.schema == {"type": "object", "properties": {}, "additionalProperties": False}
    assert USE.openai()["function"] == {
        "name": "use",
        "description": "Use everything.",
        "parameters": USE.schema,
    }


def test_arguments_are_converted_to_the_annotated_types() -> None:
    found = USE.validate({**GOOD, "number": "4", "colour": "blue", "flag": "true", "maybe": "7"})
    assert found == {
        **GOOD,
        "number": 4,
        "place": Place(row=1),
        "colour": Colour.BLUE,
        "flag": True,
        "maybe": 7,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": 5}, "use: text=5 is wrong: input should be a valid string"),
        ({"number": 2}, "use: number=2 is wrong: input should be greater than or equal to 3"),
        ({"number": "many"}, "use: number='many' is wrong"),
        ({"number": "9" * 5_000}, "is wrong"),
        ({"side": "up"}, "use: side='up' is wrong: input should be 'left' or 'right'"),
        ({"level": "1"}, "use: level='1' is wrong: input should be 1 or 2"),
        ({"names": "x"}, "use: names='x' is wrong: input should be a valid list"),
        ({"names": [1]}, "use: names=[1] is wrong"),
        ({"place": {}}, "use: place={} is wrong: field required"),
        ({"colour": "green"}, "use: colour='green' is wrong"),
        ({"share": []}, "use: share=[] is wrong"),
        ({"speed": 1}, "use has no parameter 'speed'; it takes 'text', 'number'"),
    ],
)
def test_wrong_arguments_are_a_sentence_for_the_agent(arguments: dict[str, Any], said: str) -> None:
    found = USE.validate({**GOOD, **arguments})
    assert isinstance(found, str)
    assert said in found
    assert len(found) < 300


def test_a_missing_argument_and_one_too_many_are_named() -> None:
    assert USE.validate({"text": "a"}) == (
        "use needs the parameter 'number'; it takes 'text', 'number', 'side', 'level', 'names', 'place', 'colour', "
        "'maybe', 'share', 'flag'"
    )
    assert WAIT.validate({"x": 1}) == "wait has no parameter 'x'; it takes none"
    assert WAIT.validate({}) == {}


def test_random_arguments_are_valid_and_cover_the_choices() -> None:
    rng = np.random.default_rng(0)
    samples = [USE.sample(rng) for _ in range(200)]
    for sample in samples:
        assert isinstance(USE.validate(sample), dict)
    assert {s["number"] for s in samples} == set(range(3, 10))
    assert {s["side"] for s in samples} == {"left", "right"}
    assert {s["colour"] for s in samples} == {"red", "blue"}
    assert {s["flag"] for s in samples} == {True, False}
    assert None in {s["maybe"] for s in samples}


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [
        ({"le": -5}, -105, -5),
        ({"ge": 5}, 5, 105),
        ({"gt": 5, "lt": 7}, 6, 6),
        ({"ge": -2, "le": 2}, -2, 2),
        ({"ge": 10**20}, 10**20, 10**20 + 100),
    ],
)
def test_random_integers_keep_their_bounds(bounds: dict[str, int], low: int, high: int) -> None:
    def pick(self: Any, number: int) -> str:
        """Pick."""
        return ""

    pick.__annotations__["number"] = Annotated[int, Field(**bounds)]  # type: ignore[arg-type]
    spec = ToolSpec("pick", pick)
    rng = np.random.default_rng(0)
    for _ in range(50):
        number = spec.sample(rng)["number"]
        assert low <= number <= high
        assert spec.accepts("number", number)


def test_parameters_may_have_names_that_pydantic_reserves() -> None:
    class Names(tw.TurnEnv):
        @tw.tool
        def query(self, schema: str, json: int, model_config: str, copy: str = "", _hidden: int = 0) -> str:
            """Query."""
            return schema

    spec = Names.tools["query"]
    assert spec.parameters == ("schema", "json", "model_config", "copy", "_hidden")
    assert list(spec.schema["properties"]) == list(spec.parameters)
    assert spec.validate({"schema": "a", "json": 1, "model_config": "b"}) == {
        "schema": "a",
        "json": 1,
        "model_config": "b",
    }


def test_a_description_in_the_annotation_is_kept() -> None:
    class Annotations(tw.TurnEnv):
        @tw.tool
        def look(self, where: Annotated[str, Field(description="the side")]) -> str:
            """Look."""
            return where

    assert Annotations.tools["look"].schema["properties"]["where"]["description"] == "the side"


def _undocumented(self: Any, number: int) -> str:
    return ""


def _untyped(self: Any, number) -> str:  # type: ignore[no-untyped-def]
    """Untyped."""
    return ""


def _variadic(self: Any, *numbers: int) -> str:
    """Variadic."""
    return ""


def _misdescribed(self: Any, number: int) -> str:
    """Misdescribed.

    Args:
        numbre: a number.
    """
    return ""


def _schemaless(self: Any, function: Callable[[], int]) -> str:
    """Without a schema."""
    return ""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_undocumented, "has no docstring"),
        (_untyped, "parameter 'number' .* needs a name and a type annotation"),
        (_variadic, "parameter 'numbers'"),
        (_misdescribed, r"describes \['numbre'\], which are not parameters"),
        (_schemaless, "without a JSON schema"),
    ],
)
def test_a_method_that_cannot_be_a_tool_is_refused_when_the_class_is_made(function: Any, said: str) -> None:
    with pytest.raises(InvalidEnvironment, match=said):
        type("Wrong", (tw.TurnEnv,), {"act": tw.tool(function)})


@pytest.mark.parametrize("name", ["step", "reset", "score", "format", "render", "tools"])
def test_a_tool_cannot_take_the_name_of_what_every_environment_has(name: str) -> None:
    def act(self: Any) -> str:
        """Act."""
        return ""

    with pytest.raises(InvalidEnvironment, match=f"cannot be called '{name}'"):
        type("Wrong", (tw.TurnEnv,), {name: tw.tool(act)})


def test_tools_are_inherited_in_order_and_an_override_keeps_being_one() -> None:
    class More(Everything):
        def wait(self) -> str:
            """Do less than nothing."""
            return "slept"

        @tw.tool
        def stop(self) -> tw.Outcome:
            """Stop."""
            return tw.Outcome("over", success=True)

    assert list(More.tools) == ["use", "wait", "stop"]
    assert More.tools["wait"].description == "Do less than nothing."
    env = More(format="bracket")
    env.reset(seed=0)
    assert env.step("wait[]")[0] == "slept"
    assert env.step("stop[]")[2]
