"""robosuite, and RoboCasa, which is built on it. This file imports nothing, and simulator.py imports robosuite only when it builds.

simulator.py   both simulators
scene.py       one built task: physics, goal, cameras; importing it imports robosuite and mujoco
tasks.py       the tasks and their instructions
assets.py      where RoboCasa's kitchens and objects are
"""
