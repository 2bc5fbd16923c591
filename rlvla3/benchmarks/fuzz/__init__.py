"""Broken input, made from a seed: whether all of it is accepted or refused in words (`bench fuzz`).

fuzz_report.py  what `rlvla3 bench fuzz` does: it runs the cases and prints a table
running.py      runs each case in a worker process, with a limit of time and memory
subject.py      what a subject has to do: make a case, and read it
mutations.py    changes of bytes, text and trees that every subject can use
recipes.py      recipes and their overrides
demonstrations.py, good_demonstrations.py  demonstration files and records of runs, and the good ones
"""
