"""The weight plane: versions of the weights, from the trainer to every generator, apart from all other traffic.

plane.py          publishing and loading a version on one host
versions.py       the memory of a host that holds versions; it imports no torch
layout.py         where each tensor lies in the bytes of a version
buffers.py        where the bytes lie: in host memory, or on the trainer's GPU
staging.py        copies between a device and host memory, bucket by bucket
between_hosts/    versions from the trainer's host down a tree of hosts
"""
