"""The Python API: what `import rlvla3` offers (rlvla3/__init__.py names it).

Training, cloning, evaluating and recording are the commands of commands.py, as on the command line. What is added here: paths and settings in the types of
Python, the metrics of a run as arrays, and a policy that acts outside of a run. docs/python.md shows all of it.
"""
