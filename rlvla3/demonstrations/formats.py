"""Recognises the format of a file of demonstrations by its content. What is none is named as what it is."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.demonstration_file import DemonstrationError, DemonstrationFile, cannot_open, readable
from rlvla3.demonstrations.hdf5 import Hdf5File, open_hdf5
from rlvla3.demonstrations.lerobot import INFO, LeRobotDataset
from rlvla3.demonstrations.libero import LiberoFile
from rlvla3.demonstrations.maniskill import ManiSkillFile

HDF5_FORMATS: tuple[type[Hdf5File], ...] = (LiberoFile, ManiSkillFile)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".hdf5", ".h5")

OTHER_KINDS = {
    b"version https://git-lfs": "is a pointer of Git LFS, and the file itself was not fetched: run `git lfs pull` in its repository",
    b"\x1f\x8b": "is compressed by gzip: unpack it with gunzip",
    b"BZh": "is compressed by bzip2: unpack it with bunzip2",
    b"\xfd7zXZ": "is compressed by xz: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: unpack it with unzstd",
    b"PK\x03\x04": "is a ZIP archive: unpack it",
    b"<": "begins as a web page does, so its download failed: get it again",
}
"""What else is found under the name of such a file, by its first bytes, and what to do."""

LONGEST_START = max(map(len, (HDF5_SIGNATURE, *OTHER_KINDS)))

MOST_ENTRIES = 5000
"""How many entries of a folder are looked at for a hint."""

KNOWN = "LIBERO's HDF5 (data/demo_0), ManiSkill's HDF5 (traj_0, with its .json beside it) and the folder of a LeRobot dataset (with meta/info.json)"


def open_file(path: Path, layout: DemonstrationLayout) -> DemonstrationFile:
    """Open the file or folder at `path`. layout: the recipe's names for arrays. Raises DemonstrationError where its format is not known."""
    if path.is_dir():
        if (path / INFO).is_file():
            return LeRobotDataset(path, layout)
        raise DemonstrationError(f"{path} is a folder without meta/info.json, so it is not a LeRobot dataset. {_instead_of(path)}")
    if not path.is_file():
        what = f"is a link to {path.readlink()}, where nothing is" if path.is_symlink() and not path.exists() else "is neither a file nor a folder"
        raise DemonstrationError(f"{path} {what}. Known formats are {KNOWN}")
    try:
        with path.open("rb") as file:
            start = file.read(LONGEST_START)
    except OSError as error:
        raise cannot_open(path, error) from error
    if not start.startswith(HDF5_SIGNATURE):
        raise DemonstrationError(_not_hdf5(path, start))
    with open_hdf5(path) as opened, readable(str(path)):
        found = next((kind for kind in HDF5_FORMATS if kind.recognises(opened)), None)
        there = ", ".join(opened) or "nothing"
    if found is None:
        raise DemonstrationError(f"{path} holds {there}, which is no known format of demonstrations. Known formats are {KNOWN}")
    return found(path, layout)


def _not_hdf5(path: Path, start: bytes) -> str:
    if dataset := next((folder for folder in path.absolute().parents if (folder / INFO).is_file()), None):
        return f"{path} is a part of the LeRobot dataset {dataset}: name this folder in clone.files"
    if not start:
        return f"{path} is empty: get it again, or leave it out of clone.files"
    kind = next((words for first, words in OTHER_KINDS.items() if start.startswith(first)), None)
    return f"{path} {kind}" if kind else f"{path} has no known format of demonstrations. Known formats are {KNOWN}"


def _instead_of(path: Path) -> str:
    """What to write instead of a folder that is no dataset, by what lies in it."""
    if dataset := next((folder for folder in path.absolute().parents if (folder / INFO).is_file()), None):
        return f"It is a part of one: write {dataset}"
    entries = (Path(folder, name).relative_to(path) for folder, _, names in os.walk(path) for name in sorted(names))
    for entry in islice(entries, MOST_ENTRIES):
        if entry.suffix in HDF5_SUFFIXES:
            return f"For the files in it, write {path}/{'**/' if len(entry.parts) > 1 else ''}*{entry.suffix}"
        if entry.parts[-2:] == ("meta", "info.json"):
            return f"It holds LeRobot datasets: write {path}/{'/'.join('*' * (len(entry.parts) - 2))}"
    return f"Nothing in it is a file of demonstrations. Known formats are {KNOWN}"
