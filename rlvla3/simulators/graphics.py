"""How a process is prepared to draw with MuJoCo, and checks that its frames are real.

MuJoCo and its graphics libraries read environment variables when they are imported, so `prepare_process` must come before that import.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from numpy.typing import NDArray

from rlvla3.simulators.base import SimulatorError

GRAPHICS_HELP = (
    "frames are drawn by a graphics library of the system: on Debian or Ubuntu run `apt-get install libosmesa6 libegl1 libgl1`, "
    "and leave MUJOCO_GL unset, or set it to osmesa (no GPU needed) or egl"
)
MIN_FRAME_STD = 10
"""If the standard deviation of a frame's values is not above this, the renderer has failed. 30 to 60 is usual."""


def prepare_process(simulator: str, device: str = "") -> None:
    """Prepare this process to draw with MuJoCo. device: the GPU to draw on, such as cuda:1; "" for none.

    Many simulator processes share the machine's cores. So this process starts no thread per core, neither for drawing (LP_NUM_THREADS) nor for linear algebra.
    Raises SimulatorError if mujoco was already imported while MUJOCO_GL was not set.
    """
    if "mujoco" in sys.modules and "MUJOCO_GL" not in os.environ:
        raise SimulatorError(f"mujoco was imported in this process before {simulator} could set MUJOCO_GL=osmesa: set it before that import")
    if device.startswith("cuda"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ["MUJOCO_EGL_DEVICE_ID"] = device.partition(":")[2] or "0"
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    os.environ["LP_NUM_THREADS"] = "0"
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"


def check_frame(camera: str, image: NDArray[np.uint8]) -> None:
    """Raise SimulatorError if the whole frame has one colour."""
    if image.min() == image.max():
        raise SimulatorError(f"camera {camera} gave a frame of a single colour, value {image.min()}: {GRAPHICS_HELP}")


def check_moving(camera: str, task: str, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
    """Raise SimulatorError if the frame `before` the arm moved is flat, or if the frame `after` it moved is the same."""
    if before.std() <= MIN_FRAME_STD:
        raise SimulatorError(f"camera {camera} of {task} draws flat frames, standard deviation {before.std():.1f} where 30 to 60 is usual: {GRAPHICS_HELP}")
    if np.array_equal(before, after):
        raise SimulatorError(f"camera {camera} of {task} draws the same frame while the arm moves: {GRAPHICS_HELP}")
