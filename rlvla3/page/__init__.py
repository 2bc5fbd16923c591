"""A run for people who look at it: what is known of it, in words and as a file to send.

    appended_lines.py, curves.py, run_metrics.py, run_settings.py, run_reader.py   a run read again and again while it goes on, in bounded memory
    run_facts.py   what is known of a run, read from its directory
    machine_curves.py   what was used of the machine of a run, over time
    at_work.py     signs that a run goes on
    learning.py    whether a run learns, with the interval
    waiting.py     what bounds a run, and who waits for what
    advising.py    which settings to change, and what a rehearsal says that they give
    failures.py    what failed in a run
    unusual.py     figures that are far from normal
    explaining.py  a run in ten sentences
    report.py      one HTML file of runs; svg.py, report_timeline.py and report_videos.py make its parts
    watching.py    the page in the browser; server.py answers it, with shown.py, timeline.py, episodes.py and folder.py, and static/ is what it loads
    beside.py      the page beside a run that trains
    commands.py    what `rlvla3 explain` and `rlvla3 report` do

Invariants:
- whatever is in a run directory, nothing here fails with a traceback: the files may be half-written, damaged, of another release or of somebody else;
- nothing here changes a file of a run.
"""
