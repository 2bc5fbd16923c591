"""Evaluation that others can check: published protocols by name, and results as data and as a picture.

protocol.py    what a protocol is, and how the one of a name is found
libero.py, metaworld.py, maniskill.py   the protocols of a simulator, one entry each
settings.py    what a protocol fixes in a recipe
applying.py    a recipe with a protocol's settings, and where the two differ
listing.py     all protocols in words
results.py     results.json: the result of an evaluation, task by task and episode by episode
picture.py     results.png
"""
