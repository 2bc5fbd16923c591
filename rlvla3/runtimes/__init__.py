"""The runtimes: they start the workers of a run, hand them tickets, hear of trajectories and versions, and end them.

The loops (rlvla3/loops.py) and the decisions (rlvla3/scheduling) are the same in all three runtimes; this package has what is around them.

    local.py, ray/, virtual/     the three runtimes: one host; the nodes of a Ray cluster; a virtual clock
    runtime.py                   what the local and the Ray runtime share: a coordinator that drives a ledger
    session.py                   what a command does with a runtime: clone, evaluate, train
    replay_session.py            `rlvla3 replay`: a recorded run again
    record_session.py            `rlvla3 record`: episodes that become a dataset
    recorder.py                  from the steps of episodes to datasets
    processes/                   worker processes and the control channel to them
    workers/                     what runs inside worker processes: shard, generator, trainer
    sharing/                     how generator and trainer share a GPU: measured at the start of a run
    supervision/                 who starts, watches and replaces workers: of the shards, and of a whole host
    assignment.py                which generator serves which shard
"""
