"""The version of the package. It stands apart from `rlvla3/__init__.py`, which offers the Python API and so leads to every other file."""

__version__ = "0.1.0"
