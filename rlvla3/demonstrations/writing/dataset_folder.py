"""A folder that appears when its content is complete. Until then, the content is in .partial.NAME beside it.

Invariant: whatever ends the process, there is a whole dataset at its place, or none. What a killed process has left is removed by the next
one that writes there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.observability.run_directory import flush_to_disk


def check_new(folder: Path) -> None:
    """Raise DemonstrationError where something is at `folder` already."""
    if os.path.lexists(folder):
        raise DemonstrationError(f"{folder} exists already, and a dataset gets a new folder: name another one, or remove it")


class DatasetFolder:
    """The folder of a dataset that is being written. partial: where it is until `complete` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.partial = folder, folder.with_name(f".partial.{folder.name}")

    def complete(self) -> None:
        """Let the dataset appear at its place. Raises DemonstrationError where something has appeared there meanwhile."""
        flush_to_disk(self.partial)
        check_new(self.folder)
        self.partial.rename(self.folder)


@contextmanager
def dataset_folder(folder: Path) -> Iterator[DatasetFolder]:
    """A new folder for a dataset. What is not complete when the block ends is removed. Raises DemonstrationError where the folder cannot be had."""
    folder = folder.absolute()  # an environment may change the folder of the process
    check_new(folder)
    new = DatasetFolder(folder)
    new.partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(new.partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it ends with the process, however that ends
        except BlockingIOError:
            raise DemonstrationError(f"another process writes a dataset to {folder} at present: name another folder") from None
        for left in new.partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield new
        finally:
            shutil.rmtree(new.partial, ignore_errors=True)
    finally:
        os.close(handle)
