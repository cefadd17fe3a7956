"""Training: rewards per turn, credit per turn, batches, losses and the engines that use them (layer 3)."""

from .. import __version__ as __version__  # a plain `import trainers` from the root must fail
