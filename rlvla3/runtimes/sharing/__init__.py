"""How generator and trainer share a GPU: as lanes of one process or as two processes. What is measured, and what is taken.

choice.py       when there is something to choose, and which of two measured ways is better. Pure
mps.py          whether an MPS control daemon is running
measuring.py    both ways measured at the start of a run, with work that stands in for that of the run
stand_in.py     that work
"""
