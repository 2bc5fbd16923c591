"""Scheduling as pure decisions: no clock, no process, no file, no torch. The caller brings the time and what was measured. Every law has a property test.

ledger.py        hands tickets out and takes trajectories in; it bounds staleness by admission
dispatcher.py    who runs which ticket, in all runtimes
seating.py       the runner with the fewest tickets gets the next one
batcher.py       dynamic batching: when to infer, and for whom (B_max, T_max)
streamer.py      trajectories into micro-batches
mix.py           which task and simulator each group of tickets is of
sharding.py      how simulators are cut into shards
placement.py     which devices run which stages
elastic.py       how many generators are active
recorded_run.py  a recorded run in the order in which it is repeated
"""
