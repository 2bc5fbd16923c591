"""Measures how long the stages of a recipe take on this machine, in short runs: `rlvla3 profile`.

profiler.py       from measurements to a profile
measuring.py      the short runs, with meters that take samples
contention.py     how much work a host's cores do when several are busy at once
device_memory.py  how much of a GPU's memory inference and training take
experience.py     made-up observations and episodes
cost_fitting.py   from samples to costs, as arithmetic on arrays
profile_file.py   a profile as a file and as lines
"""
