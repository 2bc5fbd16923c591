"""Frames of MuJoCo models.

Invariant: a process has one graphics context. It is made once and stays current. Every model has its own objects in it, under names that differ, so any number
of models can be drawn in turn, and changing from one to another costs nothing.

Why not Gymnasium's or robosuite's renderer? They give each environment a graphics context of its own. They draw in the context that was made last, and free
the objects of one context in another. Two built environments in one process then give black or wrong frames without any error.

Importing this file imports mujoco. mujoco reads environment variables when it is imported, so call `graphics.prepare_process` first.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

MAX_GEOMS = 10_000


class MujocoRenderer:
    """Draws frames of one model, `size` x `size` pixels. Only the thread that made the first renderer of the process can draw.

    fast: no shadows, reflections and antialiasing. In a software renderer they take 20 times as long as the rest of a frame.
    hidden: groups of geoms that are not drawn, such as shapes that serve only for collisions.
    """

    def __init__(self, model: Any, size: int, *, fast: bool, hidden: Sequence[int] = ()) -> None:
        self._model, self._size = model, size
        quality, framebuffer = model.vis.quality, model.vis.global_
        framebuffer.offwidth = framebuffer.offheight = size
        if fast:
            quality.shadowsize = quality.offsamples = 0
        _graphics_context()
        self._objects = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        self._geometry = mujoco.MjvScene(model, MAX_GEOMS)
        self._geometry.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = not fast
        self._geometry.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = not fast
        self._shown = mujoco.MjvOption()
        for group in hidden:
            self._shown.geomgroup[group] = 0
        self._viewport = mujoco.MjrRect(0, 0, size, size)

    def draw(self, data: Any, camera: str) -> NDArray[np.uint8]:
        """The frame of `camera` for the state `data`, uint8 [size, size, 3]. The camera's own up axis points upwards."""
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(camera).id
        mujoco.mjv_updateScene(self._model, data, self._shown, None, view, mujoco.mjtCatBit.mjCAT_ALL, self._geometry)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._objects)
        mujoco.mjr_render(self._viewport, self._geometry, self._objects)
        rows_from_bottom = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(rows_from_bottom, None, self._viewport, self._objects)
        return rows_from_bottom[::-1]

    def close(self) -> None:
        """Free the model's objects in the graphics context."""
        self._objects.free()


@functools.cache
def _graphics_context() -> mujoco.GLContext:
    """The one graphics context of this process."""
    context = mujoco.GLContext(1, 1)  # the size does not matter: each model is drawn into a buffer of its own size
    context.make_current()
    atexit.register(context.free)  # before mujoco's own exit handler ends EGL: the context would complain afterwards
    return context
