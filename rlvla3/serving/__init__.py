"""A policy server: `rlvla3 serve`. Robots and evaluation programs of others ask it for actions, over the protocols of openpi's client and of vla-eval.

server.py         the websocket server: who may connect, how it ends
conversation.py   what one client says, and what it is answered, in both protocols
messages.py       messages as bytes: msgpack with numpy arrays
forms.py          the names that clients give to cameras, state and instruction, as data
observing.py      from a client's message to what the policy sees
requests.py       the clients that wait, in batches: the requests of the generate loop
engine.py         the policy that answers a batch: the policy engine of the generate loop
latency.py        how long answers take, in words
served.py         which policy is served, and what is known about it
commands.py       the command, and the words of its command line

One event loop does everything but inference, decoding and resizing, which have threads. The loop that makes batches is the generators' own (loops.generate),
with the generators' batcher and limits.
"""
