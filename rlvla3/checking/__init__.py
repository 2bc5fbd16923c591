"""Whether a simulator keeps its contract (`rlvla3 check`): what is done with it, what came of it, and what is found in that.

subject.py        the simulator under examination: what can be asked of it, and how it answers
child.py          the same in a process of its own, where a call that hangs or dies is an answer, too
evidence.py       what is done with it, once, and the record of what came of it
specification.py  the list of checks, each a function of the evidence alone; they are in form.py, behaviour.py and sameness.py
report.py         what they found, as lines, as JSON and as frames to look at
"""
