"""Messages of clients as bytes: msgpack with numpy arrays, as openpi's client and vla-eval write them.

openpi     an array is {b"__ndarray__": True, b"data", b"dtype", b"shape"}, and a numpy number is {b"__npgeneric__": True, b"data", b"dtype"}
vla-eval   an array is {"__ndarray__": True, "data", "dtype", "shape"}, and an image {"__image__": True, "format": "raw", "png" or "jpeg", "data", ...}

Invariants:
- nothing that a client sends becomes anything but plain data and arrays of numbers. What cannot be read is refused in words;
- what a message becomes is not much larger than the message: arrays are views of its bytes, its compressed images have at most MOST_PIXELS together, and it
  has at most MOST_PARTS lists and maps. Nothing is computed of numbers whose size a client chooses before they are checked.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError, described

Dialect = Literal["openpi", "vla-eval"]

NUMBERS = re.compile(r"[<>|=]?(?:[iu][1248]|f[248]|b1)")
"""The types of numbers that are read, in numpy's notation."""

MOST_PIXELS = 4096 * 4096
"""Of all compressed images of a message. A few bytes could hold many more."""

MOST_PARTS = 2**17
"""Lists and maps of a message. An empty one is one byte there, and a hundred times as much here."""

LONGEST_LIST = 2**20
MOST_SIDES = 8
"""Of an array."""


class MessageError(ExplainedError, ValueError):
    """A message that cannot be answered. The text is what the client is told."""


def packed(message: object, dialect: Dialect) -> bytes:
    """A message as its client reads it. Arrays in it are numpy's."""
    return bytes(msgpack.packb(message, default=_plain if dialect == "vla-eval" else _plain_with_bytes))


def unpacked(data: bytes | str) -> Any:
    """What a client has sent. Raises MessageError."""
    if isinstance(data, str):
        raise MessageError(f"a text frame came ({data[:40]!r}), and observations are binary frames: send msgpack, as openpi-client does")
    try:
        reading = _Reading()
        return msgpack.unpackb(data, object_hook=reading.map, list_hook=reading.list, max_array_len=LONGEST_LIST, max_map_len=LONGEST_LIST)
    except MessageError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:  # all that msgpack and numpy raise for bad bytes
        raise MessageError(f"a message of {len(data)} bytes is no msgpack ({described(error)}): send it as openpi-client or vla-eval does") from error


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    raise TypeError(f"{type(value).__name__} is not sent to clients")


def _plain_with_bytes(value: object) -> object:
    return {name.encode(): part for name, part in _plain(value).items()}  # type: ignore[attr-defined]  # _plain returns a dictionary, or raises


class _Reading:
    """The lists and maps of one message, as msgpack finds them, and how many of each limit they have used."""

    def __init__(self) -> None:
        self._parts, self._pixels = 0, 0

    def list(self, given: list[Any]) -> list[Any]:
        self._count()
        return given

    def map(self, given: dict[Any, Any]) -> object:
        """An array, an image, a number, or the map itself."""
        self._count()
        for kind, read in (("__ndarray__", _array), ("__image__", self._image), ("__npgeneric__", _number)):
            if kind in given or kind.encode() in given:
                fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in given.items()}
                return read(fields)
        return given

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise MessageError(f"a message came with more than {MOST_PARTS} lists and maps: send images and states as arrays")

    def _image(self, fields: Mapping[str, Any]) -> NDArray[Any]:
        if fields.get("format") == "raw":
            return _array(fields)
        data = fields.get("data")
        if fields.get("format") not in ("png", "jpeg") or not isinstance(data, bytes):
            raise MessageError(f"an image came in the format {_shown(fields.get('format'))}: send raw, png or jpeg, and its data as bytes")
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                self._pixels += image.width * image.height
                if self._pixels > MOST_PIXELS:
                    before = "" if self._pixels == image.width * image.height else f", and the compressed images of its message {self._pixels} with it"
                    raise MessageError(f"an image came with {image.width} x {image.height} pixels{before}: send at most {MOST_PIXELS} pixels in a message")
                return np.asarray(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damaged files
            if isinstance(error, MessageError):
                raise
            raise MessageError(f"a {fields['format']} image of {len(data)} bytes cannot be read: {described(error)}") from error


def _array(fields: Mapping[str, Any]) -> NDArray[Any]:
    data, dtype, shape = fields.get("data"), _dtype(fields.get("dtype")), fields.get("shape")
    if not isinstance(data, bytes) or not isinstance(shape, list | tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise MessageError(f"an array came without its data or its shape ({_shown(shape)}): send data as bytes, dtype and shape")
    if len(shape) > MOST_SIDES or math.prod(shape) * dtype.itemsize != len(data):
        raise MessageError(f"an array of shape {_shown(list(shape))} and dtype {dtype.str} came with {len(data)} bytes: they do not belong together")
    return np.ndarray(tuple(shape), dtype, data)


def _number(fields: Mapping[str, Any]) -> object:
    value, dtype = fields.get("data"), _dtype(fields.get("dtype"))
    if not isinstance(value, int | float | bool):
        raise MessageError(f"a numpy number came as {_shown(value)}: send a number")
    try:
        return dtype.type(value)
    except (OverflowError, ValueError) as error:
        raise MessageError(f"a numpy number came as {value}, which {dtype.str} does not hold") from error


def _dtype(given: object) -> np.dtype[Any]:
    if not isinstance(given, str) or not NUMBERS.fullmatch(given):
        raise MessageError(f"an array came with dtype {_shown(given)}: send whole or floating-point numbers, such as |u1 for images and <f4 for states")
    return np.dtype(given)


def _shown(value: object) -> str:
    """A value in words. Of a list the beginning, which may be much longer than what is shown."""
    return f"{value[:MOST_SIDES] if isinstance(value, list | tuple | str | bytes) and len(value) > 60 else value!r:.60}"
