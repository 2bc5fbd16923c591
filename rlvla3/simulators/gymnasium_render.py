"""What a Gymnasium environment draws: its `render()` as a camera, and where MuJoCo draws, if the environment uses it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import RecipeError
from rlvla3.simulators.base import ContractError
from rlvla3.simulators.contract import array_words
from rlvla3.simulators.drawing import is_place
from rlvla3.simulators.graphics import prepare_process

CAMERA = "render"
"""What the camera is called that shows what `render()` returns."""

MODE = "rgb_array"


@contextmanager
def prepared_to_draw(name: str, device: str) -> Iterator[None]:
    """The environment is built within. MuJoCo is told where it draws, before the environment imports it. Environments without MuJoCo are left alone.

    device: where this shard draws, as the supervisor of its host has picked it. Nothing is picked where no MuJoCo draws, and for a description. Then it is as
    the user's environment says, else on the CPU, if OSMesa is there.
    """
    if is_place(device):
        prepare_process(name, device)
        yield
        return
    usual = "osmesa" if find_library("OSMesa") else "egl"
    ours = {} if any(map(os.environ.get, ("MUJOCO_GL", "PYOPENGL_PLATFORM"))) else {"MUJOCO_GL": usual, "PYOPENGL_PLATFORM": usual, "LP_NUM_THREADS": "0"}
    os.environ.update(ours)
    try:
        yield
    finally:
        if "mujoco" not in sys.modules:
            for variable in ours:
                os.environ.pop(variable, None)


def rendering(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an environment whose `render()` returns frames. Raises RecipeError where the recipe asks for something else."""
    if kwargs.get("render_mode", MODE) != MODE:
        raise RecipeError(
            f"simulator.options.render=true shows frames of {name}, which needs render_mode={MODE}, and simulator.options.kwargs.render_mode is "
            f"{kwargs['render_mode']!r:.40}: leave render_mode out"
        )
    return {**kwargs, "render_mode": MODE}


def rendered_shape(environment: gymnasium.Env[Any, Any], name: str) -> tuple[int, int, int]:
    """The shape [H, W, channels] of the frames. It resets the environment once. Raises RecipeError where it gives none."""
    environment.reset(seed=0)
    try:
        return rendered(environment).shape
    except ContractError as error:
        raise RecipeError(f"simulator.options.render=true, and {name} gives no frame: {error}") from error


def rendered(environment: gymnasium.Env[Any, Any]) -> NDArray[np.uint8]:
    """What the environment shows now, uint8 [H, W, channels]. Raises ContractError where `render()` returns something else."""
    frame = environment.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.dtype != np.uint8:
        raise ContractError(f"render() returned {array_words(frame)}, and a frame is a uint8 array [H, W, 3]: return one where render_mode is {MODE}")
    return frame
