"""The weight plane between hosts: a tree whose root is the trainer's host.

host.py             what every host of the tree does, with a picture of the tree
sender.py           the root: it gives versions and makes the tree
relay.py            every other host: it fetches versions and passes them on
copies.py           the versions that a host passes on
carrier.py          what carries bytes along one edge
carriers.py         the carriers by name, and tcp
process_groups.py   gloo and NCCL
wire.py             messages and sockets
"""
