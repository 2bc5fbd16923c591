"""Where demonstrations are kept while a policy learns from them: in memory, or with their frames in files of a temporary folder.

Invariant: the numbers are the same either way, so the policy is too. The folder is removed when cloning ends.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.observability.formatting import size
from rlvla3.types import Field, Layout, Spaces, observation_layout

MEMORY_SHARE = 0.5
"""The largest share of the free memory that demonstrations may take. Beyond it, their frames are kept in files."""


def demonstration_layout(spaces: Spaces, horizon: int) -> dict[str, Field]:
    """The arrays of one decision to learn from."""
    return observation_layout(spaces) | {"actions": Field((horizon, spaces.action.size), np.float32)}


def bytes_needed(layout: Layout, decisions: int) -> int:
    """The bytes of so many decisions."""
    return decisions * sum(int(np.prod(field.shape)) * np.dtype(field.dtype).itemsize for field in layout.values())


def fits_memory(needed: int) -> bool:
    return needed <= MEMORY_SHARE * psutil.virtual_memory().available


def check_room(needed: int) -> None:
    """Raise DemonstrationError where neither memory nor the temporary folder holds so many bytes."""
    folder, memory = tempfile.gettempdir(), psutil.virtual_memory().available
    free = shutil.disk_usage(folder).free
    if not fits_memory(needed) and needed > free:
        raise DemonstrationError(
            f"the demonstrations need {size(needed)}, and neither {MEMORY_SHARE:.0%} of the free memory ({size(memory)}) nor {folder} ({size(free)} free) "
            f"holds them: set TMPDIR to a folder on a larger disk, lower clone.demonstrations, or let cameras be fewer or smaller"
        )


def in_words(needed: int) -> str | None:
    """What the user should know about where the demonstrations are kept. None where memory holds them."""
    if fits_memory(needed):
        return None
    return f"the demonstrations need {size(needed)}, more than {MEMORY_SHARE:.0%} of the free memory: frames are kept in a folder of {tempfile.gettempdir()}"


@contextmanager
def room(needed: int) -> Iterator[Path | None]:
    """A temporary folder for frames, or None where memory holds them. Raises DemonstrationError where there is room in neither."""
    check_room(needed)
    if fits_memory(needed):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rlvla3-frames-") as folder:
        yield Path(folder)


def zeros(folder: Path | None, name: str, shape: tuple[int, ...], field: Field) -> NDArray[Any]:
    """An array of zeros, in memory, or in a file of `folder`."""
    if folder is None:
        return np.zeros(shape, field.dtype)
    return np.memmap(folder / name.replace("/", "_"), field.dtype, "w+", shape=shape)
