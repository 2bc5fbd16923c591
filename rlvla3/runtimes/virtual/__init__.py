"""The virtual runtime: a run on a virtual clock, where simulating, inferring and training only take the time that a profile says.

Loops, ledger, dispatcher, batcher and streamer are those of a real run.

    runtime.py                          the run, and its faults
    clock.py                            virtual time, and coroutines that wait for it
    costs.py                            profiles: what each stage costs
    machine.py, resources.py            the cores, devices and links that work is done on
    shard.py, generator.py, trainer.py  what the three loops are handed
    world.py                            what workers see of the runtime
    spans.py                            who was in which stage, from when to when
    faults.py                           what goes wrong, and when
"""
