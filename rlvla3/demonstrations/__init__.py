"""Demonstrations recorded in files: LIBERO's and ManiSkill's HDF5, and LeRobot's datasets. Nothing here imports torch (docs/demonstrations.md)."""
