"""Games for two: one class each, played against a scripted opponent, or by two agents through `match`."""
