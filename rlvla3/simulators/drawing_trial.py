"""Draws one frame with MuJoCo as the environment says (MUJOCO_GL, MUJOCO_EGL_DEVICE_ID), and prints the name of what drew it.

It ends with an error if no context can be made, or if the frame is flat. drawing.py runs it in a process of its own, because a broken driver may crash or hang.
"""

from __future__ import annotations

import os
import sys

import mujoco

from rlvla3.simulators.mujoco_renderer import MujocoRenderer

BALL = '<mujoco><worldbody><light pos="0 0 3"/><geom size=".5"/><camera name="above" pos="0 0 2"/></worldbody></mujoco>'
SIZE = 32
MIN_STD = 10
"""The standard deviation of the frame's values is about 57."""


def draw_ball() -> str:
    """Returns the name of what draws, such as "NVIDIA H100/PCIe/SSE2". Raises RuntimeError if the frame is flat."""
    model = mujoco.MjModel.from_xml_string(BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    frame = MujocoRenderer(model, SIZE, fast=True).draw(data, "above")
    if frame.std() <= MIN_STD:
        raise RuntimeError(f"the frame is flat: its standard deviation is {frame.std():.1f}")
    from OpenGL import GL

    return str(GL.glGetString(GL.GL_RENDERER).decode())


def main() -> None:
    """Draw, print and end the process."""
    try:
        print(draw_ball(), flush=True)
        os._exit(0)  # drivers may crash when they are unloaded
    except Exception as error:  # EGL, PyOpenGL and mujoco raise errors of many types
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # before a half-made context complains
