"""Environments of other libraries: an id says where it comes from, as in `gymnasium:FrozenLake-v1`.

What stands before the colon is a key of `ADAPTERS`; what stands behind it is the library's own name, and the parameter
`name` of the adapter's class. The library itself is imported when an environment is made.
"""

from __future__ import annotations

ADAPTERS: dict[str, str] = {
    "gymnasium": f"{__name__}.gymnasium_env:GymnasiumEnv",
    "mcp": f"{__name__}.mcp:MCP",
    "reasoning_gym": f"{__name__}.reasoning_gym_env:ReasoningGymEnv",
}
"""The class of each source, `module:Class`."""
