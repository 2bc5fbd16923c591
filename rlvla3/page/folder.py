"""The runs in a folder.

Invariant: what may not be read below the folder does not hide the rest. It has no runs for this user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlvla3.errors import described
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError

DEPTH = 3
MOST_RUNS = 200
MOST_FOLDERS = 5000
"""Folders that are looked into: a home folder may be named by mistake."""


@dataclass(frozen=True, slots=True)
class FoundRun:
    """name: its path below the folder, or the name of its folder where it was named itself. written: when it last wrote its metrics, or its settings."""

    name: str
    path: Path
    written: float


def find_runs(folder: Path) -> list[FoundRun]:
    """The newest runs of `folder`, the newest first; or the run that it is. Raises RunDirectoryError where there is neither folder nor run, or it may not be
    read."""
    try:
        if not folder.is_dir():
            raise RunDirectoryError(f"{folder} is no folder: give a run directory, or a folder that holds some, such as runs")
        is_run = (folder / "config.yaml").is_file()
    except OSError as error:
        raise RunDirectoryError(f"{folder} cannot be read: {described(error)}. Give a folder that this user may read") from error
    if is_run:
        return [FoundRun(folder.resolve().name or str(folder), folder, _written(folder))]
    found = [FoundRun(str(path.relative_to(folder)), path, _written(path)) for path in _below(folder)]
    return sorted(found, key=lambda run: run.written, reverse=True)[:MOST_RUNS]


def _below(folder: Path) -> Iterator[Path]:
    """Run directories below a folder. Those within a run (its evaluations) are not looked for."""
    waiting, looked = [(folder, 0)], 0
    while waiting and looked < MOST_FOLDERS:
        here, depth = waiting.pop(0)
        looked += 1
        try:
            with os.scandir(here) as entries:
                inner = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry, follow=depth == 0))
        except OSError:
            continue
        for path in (here / name for name in inner):
            if _is_run(path):
                yield path
            elif depth + 1 < DEPTH:
                waiting.append((path, depth + 1))


def _is_folder(entry: os.DirEntry[str], follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:  # a link into a folder that may not be read
        return False


def _is_run(path: Path) -> bool:
    try:
        return (path / "config.yaml").is_file() and ((path / "metrics.jsonl").exists() or (path / "logs").exists())
    except OSError:
        return False


def _written(path: Path) -> float:
    run = RunDirectory(path)
    for file in (run.metrics, run.config):
        try:
            return file.stat().st_mtime
        except OSError:
            continue
    return 0.0
