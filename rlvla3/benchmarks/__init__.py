"""Measurements of the engine itself: `rlvla3 bench`. Each writes its figures to a JSON file (figures.py).

A benchmark runs the engine as it is: it has no code path of its own inside the engine. Nothing else imports this package.

commands.py             what `rlvla3 bench` does
interaction.py          what share of the ideal rate of environment steps a training run reaches (`bench interaction`)
batching/               whether learned limits of batching are the best ones (`bench batching`)
ladder.py               the four modes on the same tickets (`bench ladder`)
reality.py              rehearsals against measurements (`bench reality`)
beside.py               what evaluation beside training costs (`bench beside`)
trained_rate.py         how many environment steps a second a run trains on
ray.py                  the Ray runtime against the local one (`bench ray`)
batch.py                what a generator does for one batch beside the network (`bench batch`)
overhead.py             what a simulator adds to its environment (`bench overhead`)
own_interpreter.py      what a shard costs in another interpreter (`bench overhead --python`)
vector.py               the engine against a synchronous vector environment (`bench vector`)
lockstep.py             the training loop of the vector environment
chunk_env.py            a recipe's simulator as an environment of the vector environment
still_env.py            an environment that costs next to nothing, to be delayed on purpose
emulated_inference.py   a policy whose inference takes a given time, as on a GPU
timed.py                an environment that measures its own steps
fuzz/                   whether broken input is refused in words (`bench fuzz`)
gpu/                    what the engine reaches on one GPU (`bench gpu`)
parity/                 whether full_async learns what sync learns (`bench parity`)
weights/                the weight plane (`bench weights`)
"""
