"""Recognises the format of a file of demonstrations by its content."""

from __future__ import annotations

from pathlib import Path

from rlvla3.demonstrations.demonstration_file import DemonstrationError, DemonstrationFile
from rlvla3.demonstrations.hdf5 import Hdf5File, open_hdf5
from rlvla3.demonstrations.lerobot import INFO, LeRobotDataset
from rlvla3.demonstrations.libero import LiberoFile
from rlvla3.demonstrations.maniskill import ManiSkillFile

HDF5_FORMATS: tuple[type[Hdf5File], ...] = (LiberoFile, ManiSkillFile)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

KNOWN = "LIBERO's HDF5 (data/demo_0), ManiSkill's HDF5 (traj_0, with its .json beside it) and the folder of a LeRobot dataset (with meta/info.json)"


def open_file(path: Path) -> DemonstrationFile:
    """Open the file or folder at `path`. Raises DemonstrationError where its format is not known."""
    if path.is_dir():
        if (path / INFO).is_file():
            return LeRobotDataset(path)
        raise DemonstrationError(f"{path} is a folder without meta/info.json, so it is not a LeRobot dataset. For the files in it, write {path}/*.hdf5")
    with path.open("rb") as file:
        if file.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
            raise DemonstrationError(f"{path} has no known format of demonstrations. Known formats are {KNOWN}")
    with open_hdf5(path) as opened:
        found = next((kind for kind in HDF5_FORMATS if kind.recognises(opened)), None)
        if found is None:
            raise DemonstrationError(f"{path} holds {', '.join(opened) or 'nothing'}, which is no known format of demonstrations. Known formats are {KNOWN}")
    return found(path)
