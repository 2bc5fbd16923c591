"""Worker processes of one host, and what they and the coordinator say to one another.

process.py      a worker process: how it starts, what it inherits, how it ends
lanes.py        the workers of one process: nearly always one
control.py      the control channel: few small messages
messages.py     the messages
rounds.py       workers that only work to be measured
roll_call.py    waiting for an answer of each of several workers
"""
