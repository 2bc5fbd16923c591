"""Measurements of the engine itself: `rlvla3 bench interaction` and `rlvla3 bench ladder`."""
