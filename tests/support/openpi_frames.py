"""The frames of the reference runs of openpi's processing. It imports numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def openpi_frames() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Random frames [height, width, 3] of two cameras: one is larger than what the model sees, one smaller.

    numpy promises that a RandomState's numbers stay.
    """
    random = np.random.RandomState(17)
    base, wrist = (random.randint(0, 256, shape, dtype=np.uint8) for shape in ((256, 320, 3), (30, 20, 3)))
    return base, wrist
