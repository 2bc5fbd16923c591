"""What the engine reaches on one GPU, and how far that is from the GPU's limits: `rlvla3 bench gpu` (docs/gpu.md).

gpu_report.py     the command: it runs the sections, prints their tables and writes the JSON file
sections.py       the sections in order, with their share of the time
running.py        runs sections one by one, each in a process of its own, within a budget of time
sheet.py          the figures of one section, sent as they come
sizes.py          how much is measured: full sizes on a GPU, tiny ones without
tables.py         the figures as tables

The sections:
machine.py        what the machine is
checks.py         the tests that need a GPU
limits.py         the limits of the device, measured: a large product, a large copy, transfers to and from the host
inference.py      inference by batch size, against these limits
training.py       training by micro-batch, against these limits
publication.py    how fast new weights leave the trainer and reach a generator
modes.py          the four modes in real runs
rehearsal.py      profile, rehearsal, and how close it is to what was measured

Shared by sections:
policies.py       the policies that are measured, with random weights
operations.py     floating-point operations and bytes of a policy, counted
timing.py         the time of a call on a device
device_watch.py   memory and utilisation of the GPU while something runs
"""
