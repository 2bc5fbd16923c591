"""Meta-World v3: a Sawyer arm, 50 tasks, and a scripted expert for each. This file imports nothing, and simulator.py imports metaworld only when it builds.

simulator.py   the simulator
scene.py       one built task: physics, cameras, expert; importing it imports mujoco
tasks.py       the tasks and their instructions
"""
