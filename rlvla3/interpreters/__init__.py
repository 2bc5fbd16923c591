"""Interpreters that simulators have of their own, so that simulators whose packages clash can run side by side in one run.

Invariant: a process in another interpreter runs the same files of rlvla3 as the process that starts it. So both always speak the same language.

    entry.py         the program that such a process runs: it finds rlvla3, and calls one function of it
    interpreter.py   from `simulator.python` to an interpreter that is known to work, and how a program of it is started
    environments.py  which packages each simulator needs, and how an environment is made of them
"""
