"""`WebShop-v1`: find and buy what an instruction asks for, in text or in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from rapidfuzz.fuzz import token_set_ratio as similarity

from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter
from ..formats import Bracket, Malformed, Tools
from ..pictures import Page
from ..spaces import MessageSpace
from ..tasks import Task, TaskSet
from ..tools import Call, tool
from ..trajectory import Trajectory
from .goals import Goal
from .reward import SIMILAR, normalize_color, token_set_ratio
from .session import BUY, NEXT, PREVIOUS, SEARCH, Session, drawn
from .shop import Shop, ShopSettings, open_shop

_LONGEST_PAGE = 1 << 20
_SHOWN, _OPENED = 0.25, 0.5


def _reached(trajectory: Trajectory, page: str) -> bool:
    """Whether a page was seen, by the keys of the states, which begin with it."""
    return any(turn.state_key.startswith(f"('{page}'") for turn in trajectory.turns)


class OriginalBracket(Bracket):
    """The original's reading of an action: greedy, from the first character, on one line; all else does nothing."""

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        r"""A call, whatever the text is: what `(.+)\[(.+)\]` matches, found in linear time."""
        line = text.partition("\n")[0]
        end = line.rfind("]")
        at = line.rfind("[", 1, max(1, end - 1))
        name, argument = (line[:at], line[at + 1 : end]) if at > 0 else (line, "")
        if name == "search" and argument:
            return Call("search", {"query": argument})
        # No page has a thing called "" to click, so that this changes nothing.
        return Call("click", {"element": argument if name == "click" else ""})


class WebShop(TurnEnv):
    """Find and buy what an instruction asks for, in a shop with a search and pages.

    Observation: the page as text, its strings joined by ` [SEP] `, as the original's `text` mode shows it: search,
        results with paging, item, description, features, reviews, attributes (with `show_attrs`), and the last page.
        Which options were chosen does not show, as in the original.
    Tools: `search(query)`, on any page; `click(element)`, with what the page calls it, in any case: a button, a product's
        ASIN, the value of an option. With `interface="browser"` the tools are `goto(address)`, `click(element)`,
        `type(element, text)` and `back()`, and the observation is the accessible text of the page in Chromium.
    Reward: on `buy now` the published reward in [0, 1]: type, attributes, options and price. With `reward="step"` the
        change of a potential is added: 0.25 when the goal's product is on the results page, 0.5 when it is open, and
        up to 0.5 more for the share of its options that are chosen. With `shop_r1` above 0 each turn is also paid
        for being like the expert's action; that part is not potential-based.
    Terminated: bought; success only where the reward is 1. Truncated: `max_turns` (15 as registered, as in ReAct).
    Invalid actions: the observation says what can be clicked. With `strict="original"` the page comes back unchanged,
        actions are read by the original's regular expression (format `bracket`), and its hidden searches work.
    Task: `goal-N`, N the place in the original's shuffled order: the first 500 are test, then 1,000 val, then train.
    State key: page, query, page number, product, chosen options.
    Expert: knows the goal's product, searches for it with words of the instruction, opens it, chooses, buys.
    Source: WebShop (Yao et al., 2022), princeton-nlp/WebShop at 64fa2a5.
    """

    interface: Literal["text", "browser"] = "text"
    products: Annotated[int, Field(ge=3, le=10_000_000)] = 1000
    detail: Literal["full", "short"] = "full"
    catalogue_seed: Annotated[int, Field(ge=0)] = 0
    data: Path | None = None
    num_products: Annotated[int, Field(ge=1)] | None = None
    goals: Literal["human", "synthetic"] = "human"
    page_size: Annotated[int, Field(ge=1)] = 10
    results: Annotated[int, Field(ge=1)] = 50
    show_attrs: bool = False
    strict: Literal["no", "original"] = "no"
    tagger: str = "auto"
    shop_r1: Annotated[float, Field(ge=0.0)] = 0.0
    screenshot: bool = False
    chromium: Path | None = None

    stages = {  # noqa: RUF012  # a ClassVar of TurnEnv
        "searched": lambda t: _reached(t, "results"),
        "opened": lambda t: _reached(t, "item"),
        "bought": lambda t: t.status == "terminated",
        "right": lambda t: t.success,
    }
    rules = (
        "You are in a web shop. Buy a product that fits the instruction: the kind of product, its attributes, its options "
        "and its price. Search with keywords, click on a product's number to open it, click on the options that the "
        "instruction names, and then on Buy Now. What you buy is judged once; the shop closes then."
    )

    def __new__(cls, **parameters: Any) -> WebShop:
        """The class of the interface that is asked for."""
        if cls is WebShop and parameters.get("interface") == "browser":
            try:
                from .browser_env import BrowserWebShop
            except ModuleNotFoundError as error:
                raise InvalidParameter(
                    f"interface='browser' needs {error.name}, which is not installed: pip install 'turnwise[browser]'"
                ) from error
            cls = BrowserWebShop
        return super().__new__(cls)

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        super().__init__(render_mode=render_mode, **parameters)
        self.observation_space = MessageSpace(_LONGEST_PAGE)
        # What a report shows names the tagger that was used, since scores under different ones do not compare.
        self.parameters = {**parameters, "tagger": self.shop.tagger}
        if self.strict == "original" and self.format == "bracket":
            self._format = OriginalBracket()

    def load_tasks(self) -> TaskSet:
        """The goals of the shop."""
        self.shop: Shop = open_shop(
            ShopSettings(
                products=self.products,
                detail=self.detail,
                catalogue_seed=self.catalogue_seed,
                data=self.data,
                num_products=self.num_products,
                goals=self.goals,
                page_size=self.page_size,
                results=self.results,
                show_attrs=self.show_attrs,
                tagger=self.tagger,
            )
        )
        return self.shop.tasks

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Open the shop at its search page."""
        self.goal: Goal = task.data["goal"]
        self.session = Session(self.goal.instruction)
        self.plan = ""
        return self.session.text(self.shop)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode; `info` also has `available_actions` and `tagger`."""
        observation, info = super().reset(seed=seed, options=options)
        return observation, self._informed(info)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn.

        `info` also has `available_actions`; `tagger`; after the purchase `reward_details`; with `shop_r1`, under that
        name, what the turn was paid for being like the expert's.
        """
        self.likeness = 0.0
        observation, reward, terminated, truncated, info = super().step(action)
        if self.shop_r1:
            info["shop_r1"] = self.likeness if self.reward == "step" else 0.0
        return observation, reward, terminated, truncated, self._informed(info)

    def _informed(self, info: dict[str, Any]) -> dict[str, Any]:
        info["available_actions"] = self.available_actions()
        info["tagger"] = self.shop.tagger
        if self.session.bought is not None:
            info["reward_details"] = self.session.bought.details
        return info

    def available_actions(self) -> dict[str, Any]:
        """What the page offers, as the original says it: `has_search_bar` and `clickables`."""
        return {
            "has_search_bar": self.session.page == "index",
            "clickables": self.session.clickables(self.shop),
        }

    @tool
    def search(self, query: str) -> Outcome:
        """Search the shop.

        Args:
            query: keywords.
        """
        text = query.lower()
        if not (text if self.strict == "original" else text.strip()):
            return self._invalid("a search needs words, for example search[red shoes]")
        extra = self._likeness("search", text)
        self.session.search(text, self._found(text))
        return Outcome(self.session.text(self.shop), reward=extra)

    @tool
    def click(self, element: str) -> Outcome:
        """Click on a button, a product or an option of the page.

        Args:
            element: its text as it stands in the page.
        """
        name = element.lower()
        if self.strict == "no":
            name = name if name in self.session.clickables(self.shop) else name.strip()
            if name == SEARCH:
                return self._invalid("to search, call search with keywords, for example search[red shoes]")
        extra = self._likeness("click", name)
        if not self.session.click(name, self.shop):
            return self._invalid(f"there is no {name[:80]!r} to click on this page")
        if self.session.page != "done":
            return Outcome(self.session.text(self.shop), reward=extra)
        assert self.session.row is not None
        self.session.bought = bought = self.shop.reward(self.session.row, self.goal, self.session.options)
        return Outcome(
            self.session.text(self.shop),
            reward=bought.value + extra,
            success=bought.value == 1.0,
            score=bought.value,
        )

    def _invalid(self, why: str) -> Outcome:
        if self.strict == "original":
            return Outcome(self.session.text(self.shop), invalid=True)
        clickables = [name for name in self.session.clickables(self.shop) if name != SEARCH]
        can = (
            f"You can click: {'; '.join(clickables)}. You can also search."
            if clickables
            else "You can search."
        )
        return Outcome(f"Nothing happened: {why}. {can}", invalid=True)

    def _found(self, query: str) -> list[int]:
        if self.strict == "original" and query[:3] in ("<r>", "<a>", "<c>", "<q>"):
            hidden = self._hidden(query)
            if hidden is not None:
                return hidden
        return self.shop.search(query)

    def _hidden(self, query: str) -> list[int] | None:
        """The original's searches by random, attribute, category and query; None where the prefix is no word."""
        kind, *words = query.split(" ")
        rest = " ".join(words).strip()
        match kind:
            case "<r>":
                number = min(self.shop.settings.results, len(self.shop.catalogue))
                return [int(r) for r in self.np_random.permutation(len(self.shop.catalogue))[:number]]
            case "<a>":
                return self.shop.rows(lambda p: rest in p["Attributes"])
            case "<c>":
                return self.shop.rows(lambda p: bool(words) and p["category"] == words[0].strip())
            case "<q>":
                return self.shop.rows(lambda p: p["query"] == rest)
        return None

    def visited(self) -> tuple[str, Callable[[], float]]:
        """Open the shop of the current task for a person: where, and a function that waits for the score.

        Raises:
            InvalidParameter: the extra `browser` is not installed.
        """
        try:
            from .server import Visit, invite
        except ModuleNotFoundError as error:
            raise InvalidParameter(
                f"the shop's web page needs {error.name}, which is not installed: pip install 'turnwise[browser]'"
            ) from error
        visit = Visit(self.shop, self.goal)

        def bought() -> float:
            while visit.bought is None or not visit.left:
                time.sleep(0.2)
            time.sleep(1.0)  # until the last page has arrived
            return visit.bought.value

        return invite(visit), bought

    # Rewards beside the published one.

    def potential(self) -> float:
        """Progress toward the goal's product: found, opened, each option right."""
        session = self.session
        if session.row == self.goal.row:
            pairs = self._wanted_options()
            right = sum(session.options.get(name) == value for name, value in pairs)
            return _OPENED + (1 - _OPENED) * (right / len(pairs) if pairs else 1.0)
        if session.page == "results" and self.goal.row in session.shown(self.shop):
            return _SHOWN
        return 0.0

    def _likeness(self, name: str, argument: str) -> float:
        """What the turn is paid with `shop_r1`: type, and element or text, scaled by how hard it was to guess."""
        if not self.shop_r1 or self.reward != "step":
            return 0.0
        self.likeness = self.shop_r1 * self._alike(name, argument)
        return self.likeness

    def _alike(self, name: str, argument: str) -> float:
        call = self.expert()
        if call is None or call.tool != name:
            return 0.0
        if name == "search":
            return 0.2 + 0.8 * self._similar(argument, call.arguments["query"])
        choices = len(self.session.clickables(self.shop))
        right = argument == str(call.arguments["element"]).lower()
        return 0.2 + 0.8 * (1 - 1 / (1 + choices)) * right

    @staticmethod
    def _similar(text: str, expected: str) -> float:
        return similarity(text, expected.lower()) / 100

    def state_key(self) -> Hashable:
        """Page, query, page number, product, chosen options."""
        return self.session.key()

    @classmethod
    def picture(cls, observation: str, state_key: str) -> Page | None:
        """The page, from its text: what stands there as buttons, headings and text."""
        return drawn(observation)

    # The expert and the random agent.

    def expert(self) -> Call | None:
        """The next action of a policy that knows the goal's product; see `_steps`."""
        kind, argument = self._next_step()
        return (
            Call("search", {"query": argument}) if kind == "search" else Call("click", {"element": argument})
        )

    def _next_step(self) -> tuple[str, str]:
        session, row = self.session, self.goal.row
        if session.row == row:
            if session.page != "item":
                return "click", PREVIOUS
            left = [value for name, value in self._wanted_options() if session.options.get(name) != value]
            return "click", left[0] if left else BUY
        if session.page == "results" and row in session.found:
            number = session.found.index(row) // self.shop.page_size + 1
            if number == session.number:
                return "click", self.shop.card(row).asin.lower()
            return "click", NEXT if number > session.number else PREVIOUS
        self.plan = self.plan or self._best_query()
        return "search", self.plan

    def _best_query(self) -> str:
        """Words of the instruction where they find the product, else its title."""
        goal, product = self.goal, self.shop.product(self.goal.row)
        title: str = product["Title"]
        options: list[str] = list(goal.options.values()) if isinstance(goal.options, dict) else goal.options
        asked: list[str] = [product["query"], *goal.attributes]
        tries = [", ".join(asked), ", ".join([*asked, *options]), title]
        return next((query for query in tries if goal.row in self.shop.search(query.lower())), tries[0])

    def _wanted_options(self) -> list[tuple[str, str]]:
        """What to choose of the goal's product: for each option the value that serves the goal best."""
        own: dict[str, list[str]] = self.shop.product(self.goal.row)["options"]
        if isinstance(self.goal.options, dict):
            return list(self.goal.options.items())
        chosen: dict[str, str] = {}
        for wanted in self.goal.options:
            free = [(name, value) for name, values in own.items() if name not in chosen for value in values]
            exact = [pair for pair in free if pair[1] == wanted]
            normal = normalize_color(wanted)
            near = exact or [p for p in free if token_set_ratio(normalize_color(p[1]), normal) > SIMILAR]
            if near:
                chosen[near[0][0]] = near[0][1]
        return list(chosen.items())

    def sample_action(self, rng: np.random.Generator) -> str:
        """A random action that is possible here: a search with two words of the instruction, or a click."""
        if self.task is None:
            return super().sample_action(rng)
        clickables = [name for name in self.session.clickables(self.shop) if name != SEARCH]
        at = int(rng.integers(len(clickables) + 1))
        if at < len(clickables):
            return self.write(Call("click", {"element": clickables[at]}))
        words = self.goal.instruction.split() or ["search"]
        picked = " ".join(words[int(i)] for i in rng.integers(len(words), size=2))
        return self.write(Call("search", {"query": picked}))
