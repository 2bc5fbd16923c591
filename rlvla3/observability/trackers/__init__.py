"""Trackers: the curves of a run in Weights & Biases, trackio, MLflow or SwanLab (docs/tracking.md).

A tracker runs in a process of its own, and nobody waits for it (law 13). Libraries of trackers hook into stdout, exits and signals, and wait for networks: none
of this reaches the run.

    sending.py   the watcher that starts this process and writes points into a pipe
    program.py   the process: it hands the points to a tracker
    kinds.py     the four trackers, as that process calls them
"""
