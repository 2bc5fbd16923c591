"""The Ray runtime: many hosts. Ray places, supervises and restarts; the loops, the shards of a host and the trainer are those of the local runtime.

A host is to the coordinator what a shard is to a host: somebody who runs tickets on so many slots. Observations and answers never leave it (D-VLA, "topology
replication"); an episode leaves it once, when it has ended, for the trainer; weights come to it over the weight plane.

    coordinator (ledger)  --tickets-->  Host actor: generators, shards, data plane
                          <--hand-ins--      |  episodes, fetched by whoever needs them
                          --updates-->  Trainer actor  --weights-->  every host
"""
