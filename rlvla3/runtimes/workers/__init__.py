"""What runs inside worker processes: the bodies of shard, generator and trainer. The local and the Ray runtime start the same bodies.

shard_worker.py       a simulator, and the simulate loop
generator_worker.py   a policy that decides, and the generate loop
policy_engine.py      what the generate loop is handed: a policy that reads and writes the data plane
trainer_worker.py     a trainer that obeys commands: clone, train, save
trainer_loop.py       what the train loop is handed: arriving trajectories, and the learner with its time on the meter
device.py             which device a worker computes on, and its share of that device's memory
"""
