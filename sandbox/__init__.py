"""Layer 0: run untrusted code."""

from .. import __version__ as __version__  # a plain `import sandbox` from the root must fail
