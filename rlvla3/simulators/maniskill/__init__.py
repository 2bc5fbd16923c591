"""ManiSkill 3: a Franka Panda or WidowX arm at a table, on a CPU or in one batch on a GPU. This file imports nothing; simulator.py imports mani_skill only when
it builds.

simulator.py         the simulator: slots, tickets and checks
parallel_scenes.py   a batch of environments as tensors on one device; importing it imports torch and mani_skill
tasks.py             the tasks, their instructions and sizes
"""
