"""`turnwise view`: runs and their trajectories as a page in the browser."""

from ... import __version__ as __version__
