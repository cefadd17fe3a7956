"""`Efficacy`: the outcome counts as far as the actions changed something."""

from __future__ import annotations

from .wrapper import Taken, Wrapper


class Efficacy(Wrapper):
    """Scales the outcome by the share of the actions that changed the state, so that idle actions cost.

    An action changed the state where the state key differs before and after it, or it ended the episode by the rules.
    One that is invalid changed nothing, also where the environment's key is made from what it answers. Success stays the
    inner environment's.

    Observation: the inner environment's.
    Tools: the inner environment's.
    Reward: the inner environment's; the last turn is also paid the change of the score.
    Terminated: as the inner environment.
    Source: WMAct scales the outcome by action efficacy; that the scale is exactly the share (changed / all), and what
        counts as changed, is our reading.
    """

    def begin(self) -> None:
        """No action has been taken."""
        self.actions = self.effective = 0

    def paid(self, turn: Taken) -> float:
        """Nothing; the action is counted."""
        self.actions += 1
        self.effective += not turn.info["invalid"] and (
            turn.terminated or turn.info["state_key"] != turn.before
        )
        return 0.0

    def outcome(self, score: float, success: bool) -> tuple[float, bool]:
        """The score times the share."""
        return score * self.effective / self.actions if self.actions else score, success
