"""The Ray runtime: many hosts. Ray places, supervises and restarts actors. The loops and the worker bodies are those of the local runtime.

To the coordinator, a host is a runner of tickets, as a shard is to a host. Observations and decisions never leave their host (D-VLA, "topology replication").
An episode leaves its host once, for the trainer, when it has ended. Weights reach a host over the weight plane.

    coordinator (ledger)  --tickets-->  Host actor: generators, shards, data plane
                          <--hand-ins--      |  episodes, fetched by whoever needs them
                          --updates-->  Trainer actor  --weights-->  every host

    runtime.py              the coordinator: reserves nodes, starts actors, drives the ledger
    cluster.py              Ray's nodes as the hosts of a placement
    cluster_supervisor.py   the hosts, as the coordinator supervises them
    actor.py                a worker body in a Ray actor, and the channel to it
    host_actor.py           the body of a host: its workers, on the coordinator's tickets
    trainer_actor.py        the body of a trainer rank
    messages.py             messages beside those of any worker
    reports.py              where the time of workers on other hosts goes
"""
