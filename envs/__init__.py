"""Layer 1: environments, their registry, trajectories and the episode loop.

Importing this package imports no environment: each is imported when it is first made.
"""

# The first import lets a plain `import envs` from the root fail, which would make a second registry.
from .. import __version__ as __version__
from . import errors
from .agent import Agent, AgentLike, Conversation, Message, Reply
from .check import CheckReport, check
from .core import Outcome, TurnEnv
from .errors import EnvFailure
from .formats import FORMATS, ToolFormat
from .registry import env_class, env_ids, make, register
from .rollout import Job, RolloutResult, play, rollout
from .tasks import ListedTasks, ProceduralTasks, Task, TaskSet
from .tools import Call, ToolSpec, tool
from .trajectory import SCHEMA_VERSION, Trajectory, Turn, read_trajectories, write_trajectories

register("Bandit-v1", f"{__name__}.puzzles.bandit:Bandit")
register("Code-v1", f"{__name__}.code.code:Code", max_turns=8)
register("CodeRepair-v1", f"{__name__}.code.code_repair:CodeRepair", max_turns=15)
register("ConnectFour-v1", f"{__name__}.games.connect_four:ConnectFour", max_turns=24)
register("Cooking-v1", f"{__name__}.puzzles.cooking:Cooking")
register("FrozenLake-v1", f"{__name__}.frozen_lake:FrozenLake", max_turns=12)
register("GraphNavigation-v1", f"{__name__}.puzzles.graph_navigation:GraphNavigation")
register("Hanoi-v1", f"{__name__}.puzzles.hanoi:Hanoi")
register("HigherLower-v1", f"{__name__}.higher_lower:HigherLower", max_turns=8)
register("JudgeCritic-v1", f"{__name__}.games.judge_critic:JudgeCritic", max_turns=4)
register("KeyDoor-v1", f"{__name__}.puzzles.key_door:KeyDoor")
register("KuhnPoker-v1", f"{__name__}.games.kuhn_poker:KuhnPoker", max_turns=24)
register("LightsOut-v1", f"{__name__}.puzzles.lights_out:LightsOut")
register("Mastermind-v1", f"{__name__}.puzzles.mastermind:Mastermind")
register("Maze-v1", f"{__name__}.puzzles.maze:Maze")
register("Minesweeper-v1", f"{__name__}.puzzles.minesweeper:Minesweeper")
register("Negotiation-v1", f"{__name__}.games.negotiation:Negotiation", max_turns=7)
register("Nim-v1", f"{__name__}.games.nim:Nim", max_turns=15)
register("SQL-v1", f"{__name__}.sql.sql:SQL", max_turns=12)
register("Remote-v1", f"{__name__}.remote:Remote")
register("Search-v1", f"{__name__}.search.search:Search", max_turns=12)
register("SlidingTiles-v1", f"{__name__}.puzzles.sliding_tiles:SlidingTiles")
register("Sokoban-v1", f"{__name__}.sokoban:Sokoban", max_turns=30)
register("Taxi-v1", f"{__name__}.puzzles.taxi:Taxi")
register("TicTacToe-v1", f"{__name__}.games.tic_tac_toe:TicTacToe", max_turns=7)
register("TwentyFour-v1", f"{__name__}.puzzles.twenty_four:TwentyFour")
register("WebShop-v1", f"{__name__}.webshop.webshop:WebShop", max_turns=15)
register("WordGuess-v1", f"{__name__}.puzzles.word_guess:WordGuess")
register("Wrapped-v1", f"{__name__}.wrappers.wrapped:Wrapped")

__all__ = [
    "FORMATS",
    "SCHEMA_VERSION",
    "Agent",
    "AgentLike",
    "Call",
    "CheckReport",
    "Conversation",
    "EnvFailure",
    "Job",
    "ListedTasks",
    "Message",
    "Outcome",
    "ProceduralTasks",
    "Reply",
    "RolloutResult",
    "Task",
    "TaskSet",
    "ToolFormat",
    "ToolSpec",
    "Trajectory",
    "Turn",
    "TurnEnv",
    "check",
    "env_class",
    "env_ids",
    "errors",
    "make",
    "play",
    "read_trajectories",
    "register",
    "rollout",
    "tool",
    "write_trajectories",
]
