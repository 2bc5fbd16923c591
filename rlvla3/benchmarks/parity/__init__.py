"""Whether full_async learns what sync learns: `rlvla3 bench parity`.

The same recipe and the same tickets, trained synchronously and with the schedules asked for, over several seeds:

    plan.py         which runs there are, and with which settings
    running.py      trains what is not trained yet, each run by the ordinary command line in a process of its own
    curves.py       what a run's updates say, against environment steps
    differences.py  full_async less sync at equal environment steps, and how sure one can be of it
    picture.py      parity.png
    report.py       parity.json and parity.md
"""
