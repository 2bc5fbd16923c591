"""Frames of MuJoCo models: one graphics context a process, and in it each model's own objects.

Importing this file imports mujoco, which reads its environment variables as it is imported: `rendering.prepare_process` comes first.

Why frames are drawn here and not by Gymnasium's or robosuite's renderer: those give each environment a graphics context of its own, draw in
whichever was made last, and free the objects of one in another, so two live environments in a process give black or silently wrong
frames. Here a process has one graphics context, made once and current for good. Every model's objects live in it under different
names, so any number of models are right side by side, and going from one to another costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

MAX_GEOMS = 10_000


class Drawing:
    """The frames of one model, `size` x `size` pixels. The thread that makes the first one of a process is the one that can draw.

    fast: without shadows, reflections and antialiasing, which cost a software renderer 20 times the rest of a frame.
    hidden: groups of geoms that are not drawn, such as shapes that are there for collisions alone.
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
        """What `camera` sees of `data`, its own up axis upwards: uint8 [size, size, 3]."""
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(camera).id
        mujoco.mjv_updateScene(self._model, data, self._shown, None, view, mujoco.mjtCatBit.mjCAT_ALL, self._geometry)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._objects)
        mujoco.mjr_render(self._viewport, self._geometry, self._objects)
        rows_from_below = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(rows_from_below, None, self._viewport, self._objects)
        return rows_from_below[::-1]

    def close(self) -> None:
        """Free what the model holds in the graphics context."""
        self._objects.free()


@functools.cache
def _graphics_context() -> mujoco.GLContext:
    """The one graphics context of this process."""
    context = mujoco.GLContext(1, 1)  # each model is drawn into a buffer of its own size
    context.make_current()
    return context
