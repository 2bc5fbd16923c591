"""Faults in real runs, made from a seed: whether a run loses anything, and whether its user is told (`bench chaos`).

chaos_report.py  what `rlvla3 bench chaos` does: it makes rounds, and prints a table
rounds.py        a round: one run, the faults that it suffers, its end, and what is checked then
faults.py        the kinds of faults
observed_run.py  a run as its user has it: started, read, continued; and its processes
orders.py        how a process of a run is told to do something bad to itself
world.py, learner.py  the environment and the policy, which obey orders; coordinator.py the program that starts a run, which obeys them too
accounts.py      whether tickets, steps, evaluations, record and weights are exact
settings.py      the recipes of the runs
leftovers.py     what a run must not leave: processes, shared memory, files
nodes.py         two Ray nodes on this machine
deaths.py        what deaths of simulators cost
"""
