"""The games through PettingZoo's AEC interface (`pip install 'turnwise[pettingzoo]'`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from pettingzoo import AECEnv

from ..registry import make
from ..spaces import MessageSpace
from .game import Game


class _Text(str):
    """A text with the type that its space has: PettingZoo compares the two by `dtype`."""

    __slots__ = ()
    dtype = str


class GameAEC(AECEnv):  # type: ignore[misc]  # PettingZoo has no types
    """A game of turnwise as a PettingZoo environment: agents are the roles, observations and actions are texts.

    Observation: what the seat sees. Action: the text of an assistant message, in the game's tool format. Rewards, at the end: the
    utility of each seat in [0, 1]. An action that is no legal move costs a turn, or the game with `illegal="forfeit"`; an agent
    that has used up `max_turns` truncates the game. Seats that move at the same time are asked one after another, none seeing
    the others' choice.

    Args:
        game_id: a registered game.
        parameters: as for `make`.
    """

    metadata = {"render_modes": ["ansi"], "name": "turnwise", "is_parallelizable": False}  # noqa: RUF012  # PettingZoo's

    def __init__(self, game_id: str, *, render_mode: str | None = None, **parameters: Any) -> None:
        super().__init__()
        game = make(game_id, **parameters)
        if not isinstance(game, Game):
            raise ValueError(f"{game_id} is no game of several seats; make it with turnwise.make")
        self.game = game
        self.turns_each = game.max_turns
        game.max_turns *= len(game.roles)
        game.everyone = True
        self.render_mode = render_mode
        self.possible_agents = list(game.roles)
        self.observation_spaces = {role: MessageSpace() for role in game.roles}
        self.action_spaces = {role: MessageSpace(sampler=self._sampler(role)) for role in game.roles}

    def _sampler(self, role: str) -> Any:
        def sample(rng: np.random.Generator) -> str:
            self.game.me = self.game.roles.index(role)
            return self.game.sample_action(rng)

        return sample

    def observation_space(self, agent: str) -> MessageSpace:
        """Any text."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> MessageSpace:
        """Any text; samples are legal moves where the agent is to move."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Deal; of the options, `task` and `split` are read."""
        known = {k: v for k, v in (options or {}).items() if k in ("task", "split")}
        self.game.reset(seed=seed, options=known)
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {role: {} for role in self.agents}
        self._taken = dict.fromkeys(self.agents, 0)
        self._waiting: list[int] = []
        self._refused: dict[str, str] = {}
        self._next()

    def _next(self) -> None:
        if not self._waiting:
            self._waiting = list(self.game.movers())
        self.agent_selection = self.possible_agents[self._waiting[0]]

    def observe(self, agent: str) -> str:
        """What the seat sees; after an illegal move, the answer to it."""
        return _Text(self._refused.get(agent) or self.game.view(self.possible_agents.index(agent)))

    def step(self, action: str | None) -> None:
        """Make the move of the agent whose turn it is."""
        role = self.agent_selection
        if self.terminations[role] or self.truncations[role]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[role] = 0.0
        self._clear_rewards()
        seat = self._waiting.pop(0)
        self.game.me = seat
        observation, _, _, _, info = self.game.step(str(action))
        self._taken[role] += 1
        self._refused.pop(role, None)
        if info["invalid"]:
            self._refused[role] = observation
            if self.game.illegal == "forfeit":
                self.game.forfeited = seat
        self.infos[role] = {"invalid": info["invalid"]}
        if self.game.over():
            for number, utility in enumerate(self.game.result()):
                self.rewards[self.possible_agents[number]] = utility
            self.terminations = dict.fromkeys(self.agents, True)
        elif self._taken[role] == self.turns_each:
            self.truncations = dict.fromkeys(self.agents, True)
        if not any(self.terminations.values()) and not any(self.truncations.values()):
            self._next()
        else:
            self.agent_selection = self.agents[(self.agents.index(role) + 1) % len(self.agents)]
        self._accumulate_rewards()

    def render(self) -> str:
        """What the agent sees whose turn it is."""
        return self.observe(self.agent_selection)

    def close(self) -> None:
        """Nothing is held."""
