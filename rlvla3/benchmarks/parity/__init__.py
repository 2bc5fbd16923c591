"""Whether full_async learns what sync learns: `rlvla3 bench parity`.

The same recipe and the same tickets are trained synchronously and with other schedules, over several seeds.

trials.py           the runs of a measurement, and their settings
running.py          trains the runs that are not finished, each by the ordinary command line in a process of its own
curves.py           a run's success or return against environment steps
differences.py      full_async minus sync at equal environment steps, with confidence intervals
curves_picture.py   parity.png
parity_report.py    parity.json and parity.md
"""
