"""Recognises the format of a file of demonstrations by its content."""

from __future__ import annotations

from pathlib import Path

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.demonstration_file import DemonstrationError, DemonstrationFile, cannot_open, readable
from rlvla3.demonstrations.hdf5 import Hdf5File, open_hdf5
from rlvla3.demonstrations.lerobot import INFO, LeRobotDataset
from rlvla3.demonstrations.libero import LiberoFile
from rlvla3.demonstrations.maniskill import ManiSkillFile

HDF5_FORMATS: tuple[type[Hdf5File], ...] = (LiberoFile, ManiSkillFile)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

KNOWN = "LIBERO's HDF5 (data/demo_0), ManiSkill's HDF5 (traj_0, with its .json beside it) and the folder of a LeRobot dataset (with meta/info.json)"


def open_file(path: Path, layout: DemonstrationLayout) -> DemonstrationFile:
    """Open the file or folder at `path`. layout: the recipe's names for arrays. Raises DemonstrationError where its format is not known."""
    if path.is_dir():
        if (path / INFO).is_file():
            return LeRobotDataset(path, layout)
        raise DemonstrationError(f"{path} is a folder without meta/info.json, so it is not a LeRobot dataset. For the files in it, write {path}/*.hdf5")
    if not path.is_file():
        raise DemonstrationError(f"{path} is neither a file nor a folder. Known formats are {KNOWN}")
    try:
        with path.open("rb") as file:
            signature = file.read(len(HDF5_SIGNATURE))
    except OSError as error:
        raise cannot_open(path, error) from error
    if signature != HDF5_SIGNATURE:
        raise DemonstrationError(f"{path} has no known format of demonstrations. Known formats are {KNOWN}")
    with open_hdf5(path) as opened, readable(str(path)):
        found = next((kind for kind in HDF5_FORMATS if kind.recognises(opened)), None)
        there = ", ".join(opened) or "nothing"
    if found is None:
        raise DemonstrationError(f"{path} holds {there}, which is no known format of demonstrations. Known formats are {KNOWN}")
    return found(path, layout)
