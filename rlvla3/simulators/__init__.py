"""Simulators: what steps the environments of a shard, and how a recipe's simulator is found and built.

Simulator processes stay small, so nothing here imports torch, except ManiSkill's own batch. Nothing here imports a simulator's package (mujoco, robosuite,
mani_skill, ...) before a simulator is built, so a recipe is checked in an instant. Nothing ever waits for an answer on standard input.

base.py               the contract: Simulator, SingleEnvironment, SimulatorError
description.py        what is known of a simulator before it runs
describing.py         the program that describes simulators in a process of its own
registry.py           from a simulator's name in a recipe to the simulator
builtin.py            the names of the simulators that ship with rlvla3
common_spaces.py      how one policy sees and acts in several different simulators
delayed.py            delays on purpose
every_step.py         keeps every environment step in files, for `rlvla3 record`
gymnasium.py          any Gymnasium environment
gymnasium_instruction.py  where a Gymnasium environment says its instruction
gymnasium_packages.py how an ID of Gymnasium is found
gymnasium_render.py   what an environment draws, as a camera
resizing.py           images of another size
slow_image.py         the environment of the interaction benchmark

metaworld/            Meta-World
libero/               LIBERO
maniskill/            ManiSkill
robosuite/            robosuite and RoboCasa

Shared by these packages:

graphics.py           how a process is prepared to draw with MuJoCo, and checks of frames
drawing.py            where this host can draw: on which GPUs, or on the CPU
egl.py                which of EGL's devices is which device of CUDA
drawing_trial.py      the program that tries to draw one frame
mujoco_renderer.py    frames of MuJoCo models
scene_cache.py        scenes that stay built between episodes
assets.py             where meshes and textures are looked for
robosuite_import.py   how robosuite and LIBERO are imported
"""
