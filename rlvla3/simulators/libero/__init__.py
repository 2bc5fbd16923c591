"""LIBERO: a Panda arm and 130 tasks in five suites. This file imports nothing, and simulator.py imports libero and robosuite only when it builds.

simulator.py   the simulator
scene.py       one built task: physics, initial states, goal, cameras; importing it imports robosuite and mujoco
tasks.py       suites, tasks, instructions and initial states, read from the package's files without importing it
assets.py      where meshes and textures are, and how they are downloaded
"""
