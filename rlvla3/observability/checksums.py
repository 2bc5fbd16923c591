"""The checksums of a checkpoint's files. With them, a file that is not as it was written is noticed: one flipped bit is enough.

    manifest.json   {"files": {"trainer.pt": {"bytes": 5000, "sha256": "..."}, ...}}

Invariant: the manifest is written after all other files. A folder without it is not complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, PathWithin, checked, read_json

MANIFEST = "manifest.json"

THREADS = 4
"""Files that are read at the same time."""


class _File(Metadata):
    bytes: Count
    sha256: str


class _Manifest(Metadata):
    files: dict[PathWithin, _File]


def write_manifest(folder: Path) -> None:
    """Write the checksums of all files in `folder`. Raises OSError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(THREADS) as threads:
        digests = list(threads.map(_digest, files))
    entries = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest} for path, digest in zip(files, digests, strict=True)}
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=1) + "\n", encoding="utf-8")


def has_manifest(folder: Path) -> bool:
    """Whether something has the manifest's name. Folders that an earlier release wrote have none."""
    return os.path.lexists(folder / MANIFEST)


def first_damage(folder: Path, part: str = "") -> str | None:
    """What is wrong with a file of `folder`, in words that begin with the file's name. None where every file is as it was written.

    part: a folder within `folder`: only its files are looked at.
    """
    try:
        listed = checked(_Manifest, read_json(folder / MANIFEST, ""), MANIFEST, "").files
    except RecipeError:
        return f"{MANIFEST} is missing, or is no list of checksums"
    wanted = {name: file for name, file in listed.items() if not part or Path(name).parts[0] == part}
    for name, file in wanted.items():  # what costs nothing is looked at first
        if (wrong := _wrong_kind(folder / name)) is not None:
            return f"{name} {wrong}"
        if (size := (folder / name).stat().st_size) != file.bytes:
            return f"{name} has {size} bytes, and it was written with {file.bytes}"
    with ThreadPoolExecutor(THREADS) as threads:
        digests = list(threads.map(lambda name: _digest(folder / name), wanted))
    changed = [name for name, digest in zip(wanted, digests, strict=True) if digest != wanted[name].sha256]
    return f"{changed[0]} has another checksum than when it was written" if changed else None


def _wrong_kind(path: Path) -> str | None:
    try:
        kind = path.stat().st_mode
    except OSError:
        return "is missing"
    return None if stat.S_ISREG(kind) else "is no file"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
