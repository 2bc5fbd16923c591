"""How a process is prepared to draw with MuJoCo, and checks that its frames are real. drawing.py says where it draws.

MuJoCo and its graphics libraries read environment variables when they are imported, so `prepare_process` must come before that import.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from numpy.typing import NDArray

from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.drawing import PACKAGES_HELP, place_here, variables_of

GRAPHICS_HELP = f"frames are drawn by a graphics library of the system: {PACKAGES_HELP}, and leave MUJOCO_GL unset, or set it to osmesa (no GPU needed) or egl"
MIN_FRAME_STD = 10
"""If the standard deviation of a frame's values is not above this, the renderer has failed. 30 to 60 is usual."""


def prepare_process(simulator: str, device: str = "") -> None:
    """Prepare this process to draw with MuJoCo. device: where it draws, such as cuda:1, egl:2 or cpu; "" for the best of what is here.

    Many simulator processes share the machine's cores. So this process starts no thread per core, neither for drawing (LP_NUM_THREADS) nor for linear algebra.
    Raises SimulatorError if nothing can draw here, or if mujoco was already imported while MUJOCO_GL was not set; RecipeError if `device` cannot draw.
    """
    if "mujoco" in sys.modules and "MUJOCO_GL" not in os.environ:
        raise SimulatorError(f"mujoco was imported in this process before {simulator} could set MUJOCO_GL: set it before that import")
    if place := place_here(device):
        os.environ.update(variables_of(place))
    elif "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"]
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
