"""What can be known of a run before it is made: rehearsals on the virtual clock, and the search for fast settings.

Nothing here imports torch, a simulator or a policy, except profiling/, which measures them. Nothing that is printed depends on this machine's clock, except a
measured profile.

commands.py           what `rlvla3 profile`, `rehearse` and `plan` do
rehearsal.py          one run on the virtual clock, and its throughput, utilisation, waiting and staleness
rehearsal_report.py   a rehearsal as a table, as lines and as JSON
timeline.py           the last updates of a rehearsal as a trace
timeline_picture.py   the same as a picture
observed_profile.py   the profile of a run, from the times of its workers
profiles.py           where profiles are found
search.py             the search for the fastest settings
space.py              the settings among which it chooses
bound.py              the shortest possible time of an update, in closed form
memory_fit.py         whether settings fit into memory
plan_report.py        a plan as lines and as JSON
profiling/            measures a profile on this machine
papers/               published measurements against rehearsals
"""
