"""Whether `engine.max_batch: auto` finds the limits of batching that are best, and whether full_async is ever slower than sync (`bench batching`).

cost_profiles.py     what inference, simulation and training cost in each trial
rehearsed.py         trials on the virtual clock
real.py              trials with real processes, whose inference and simulators sleep
batching_report.py   what `rlvla3 bench batching` does: the claims, and whether they hold
"""
