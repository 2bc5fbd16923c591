"""Before a run goes on: what stands in its folder where a run writes, and is of another kind, gets another name.

A worker that opened a FIFO in place of its log would wait for ever, and a summary cannot take the place of a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rlvla3.observability.run_directory import RunDirectory, rename_damaged

FOLDERS = ("evaluations", "logs", "record", "replays", "stays", "videos")
FILES = ("metrics.jsonl", "summary.json", "trace.json")


def mend(run: RunDirectory) -> list[str]:
    """Rename what is in the way of the run. Returns a sentence for each, for the user. Checkpoints and config.yaml are left alone."""
    return [f"{path} is no {kind}: it was renamed to {rename_damaged(path).name}" for path, kind in list(_in_the_way(run.path))]


def _in_the_way(folder: Path) -> Iterator[tuple[Path, str]]:
    for name in FOLDERS:
        place = folder / name
        if os.path.lexists(place) and not place.is_dir():
            yield place, "folder"
        elif name in ("logs", "record", "stays") and place.is_dir():
            yield from ((path, "file") for path in sorted(place.iterdir()) if not path.is_file())
    for name in FILES:
        if os.path.lexists(folder / name) and not (folder / name).is_file():
            yield folder / name, "file"
