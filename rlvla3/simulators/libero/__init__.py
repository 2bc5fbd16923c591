"""LIBERO and LIBERO-PRO: a Panda arm. This file imports nothing, and simulator.py imports libero and robosuite only when it builds.

simulator.py   the simulator
scene.py       one built task: physics, initial states, goal, cameras; importing it imports robosuite and mujoco
tasks.py       tasks, instructions and initial states, read from the package's files without importing it
suites.py      the names of the suites, and how long their episodes are
package.py     which package of LIBERO is installed, and where its files, meshes and textures are
"""
