"""Puzzles with levels: each generates instances that can be solved, and checks a solution without playing it."""
