"""Who starts, watches and replaces workers. Supervisors run in the coordinator's process, or in the actor of a Ray host; they import no torch.

shard_supervisor.py   the simulator processes of one host
watch.py              who is late, and what is done about it; limits.py says when somebody is
replacements.py       whether a lost worker is replaced, and what becomes of its tickets
host_supervisor.py    all workers of one host
"""
