"""What MuJoCo and its libraries read from the environment as they are imported, and whether what they draw can be trusted."""

from __future__ import annotations

import os
import sys

import numpy as np
from numpy.typing import NDArray

from rlvla3.simulators.base import SimulatorError

GRAPHICS_HELP = (
    "frames are drawn by a graphics library of the system: on Debian or Ubuntu `apt-get install libosmesa6 libegl1 libgl1`, "
    "and leave MUJOCO_GL unset, or set it to osmesa (no GPU needed) or egl"
)
FLATTEST = 10
"""Standard deviation of a frame's values, below which a renderer is taken to have failed; 30 to 60 is usual."""


def prepare_process(simulator: str, device: str = "") -> None:
    """Get this process ready to draw with MuJoCo. device: such as cuda:1, the GPU to draw on.

    A process that is given its shard's share of a machine must not start a thread for every core, neither for drawing (LP_) nor for linear algebra.
    Raises SimulatorError where mujoco has already been imported without being told how to draw.
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
    """Raises SimulatorError where a frame is of one colour."""
    if image.min() == image.max():
        raise SimulatorError(f"camera {camera} gave a frame of a single colour, value {image.min()}: {GRAPHICS_HELP}")


def check_moving(camera: str, task: str, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
    """Raises SimulatorError where frames from before and after the arm moved are flat, or the same."""
    if before.std() <= FLATTEST:
        raise SimulatorError(f"camera {camera} of {task} draws flat frames, standard deviation {before.std():.1f} where 30 to 60 is usual: {GRAPHICS_HELP}")
    if np.array_equal(before, after):
        raise SimulatorError(f"camera {camera} of {task} draws the same frame while the arm moves: {GRAPHICS_HELP}")
