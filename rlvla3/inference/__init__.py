"""How a policy acts fast on a device. No policy knows of it, and it knows nothing of processes or of the data plane.

actor.py    the policy on its device: it takes what was asked and gives decisions
sizes.py    the sizes of batches that a device computes, and what padding costs
inputs.py   observations on their way to the device: page-locked memory, and tensors with fixed addresses
answers.py  decisions on their way back
choice.py   which way a policy acts: as it is, from CUDA graphs, or compiled
graphs.py   CUDA graphs
watch.py    what a graph cannot hold
misfits.py  what is wrong with an observation that comes from outside of a run
"""
