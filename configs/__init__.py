"""Layer 0: the Hydra groups and the typed schema that rejects an unknown key."""

from .. import __version__ as __version__  # a plain `import configs` from the root must fail
