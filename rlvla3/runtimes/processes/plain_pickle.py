"""Pickles that any interpreter can read which runs the same files of rlvla3.

numpy and pathlib pickle their objects under names that differ from version to version: `numpy.core` and `numpy._core`, `pathlib` and `pathlib._local`. Here
arrays and paths are written as what they hold.
"""

from __future__ import annotations

import io
from multiprocessing.reduction import ForkingPickler
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PlainPickler(ForkingPickler):
    """Writes arrays and numbers of numpy, and paths, in the same way in each version of numpy and Python."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.dispatch_table.update(_REDUCED)


def dumps(value: Any) -> bytes:
    """`value`, pickled. pickle.loads reads it."""
    buffer = io.BytesIO()
    PlainPickler(buffer).dump(value)
    return buffer.getvalue()


def _reduce_array(array: NDArray[Any]) -> Any:
    if array.dtype.hasobject or array.dtype.names:
        return array.__reduce_ex__(5)
    return _array, (array.tobytes(), array.dtype.str, array.shape)


def _array(content: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.frombuffer(bytearray(content), dtype).reshape(shape)


def _reduce_number(number: np.generic) -> Any:
    return _number, (number.tobytes(), number.dtype.str)


def _number(content: bytes, dtype: str) -> Any:
    return np.frombuffer(content, dtype)[0]


def _reduce_path(path: Path) -> Any:
    return _path, (str(path),)


def _path(text: str) -> Path:
    return Path(text)


_PLAIN_NUMBERS = [np.bool_, *(np.dtype(code).type for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"])]
_REDUCED: dict[type, Any] = {np.ndarray: _reduce_array, PosixPath: _reduce_path} | dict.fromkeys(_PLAIN_NUMBERS, _reduce_number)
