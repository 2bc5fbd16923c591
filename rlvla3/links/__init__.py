"""The links between workers: the data plane and the weight plane. The two never share a channel (law 6).

data_plane.py    observations and decisions in shared memory, and doorbells that wake whoever waits
rollouts.py      the memory of the data plane: every episode that runs or is not trained on yet
doorbell.py      a pipe that wakes a coroutine of another process
replay_port.py   a generator's side of the data plane in a replay
rendezvous.py    where the ranks of a trainer meet
own_thread.py    an event loop in a thread of its own
weights/         the weight plane: versions on one host, and between hosts
"""
