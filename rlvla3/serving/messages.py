"""Messages of clients as bytes: msgpack with numpy arrays, as openpi's client and vla-eval write them.

openpi     an array is {b"__ndarray__": True, b"data", b"dtype", b"shape"}, and a numpy number is {b"__npgeneric__": True, b"data", b"dtype"}
vla-eval   an array is {"__ndarray__": True, "data", "dtype", "shape"}, and an image {"__image__": True, "format": "raw", "png" or "jpeg", "data", ...}

Invariant: nothing that a client sends becomes anything but plain data and arrays of numbers, whose size is at most that of the message, or MOST_PIXELS for a
compressed image. What cannot be read is refused in words.
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
"""Of a compressed image. A small message could hold a much larger one."""


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
        return msgpack.unpackb(data, object_hook=_object)
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


def _object(given: dict[Any, Any]) -> object:
    """One map of a message: an array, an image, a number, or the map itself."""
    for kind, read in (("__ndarray__", _array), ("__image__", _image), ("__npgeneric__", _number)):
        if kind in given or kind.encode() in given:
            fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in given.items()}
            return read(fields)
    return given


def _array(fields: Mapping[str, Any]) -> NDArray[Any]:
    data, dtype, shape = fields.get("data"), _dtype(fields.get("dtype")), fields.get("shape")
    if not isinstance(data, bytes) or not isinstance(shape, list | tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise MessageError(f"an array came without its data or its shape ({_shown(shape)}): send data as bytes, dtype and shape")
    if math.prod(shape) * dtype.itemsize != len(data) or len(shape) > 8:
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


def _image(fields: Mapping[str, Any]) -> NDArray[Any]:
    if fields.get("format") == "raw":
        return _array(fields)
    data = fields.get("data")
    if fields.get("format") not in ("png", "jpeg") or not isinstance(data, bytes):
        raise MessageError(f"an image came in the format {_shown(fields.get('format'))}: send raw, png or jpeg, and its data as bytes")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise MessageError(f"an image came with {image.width} x {image.height} pixels: send at most {MOST_PIXELS} pixels")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damaged files
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"a {fields['format']} image of {len(data)} bytes cannot be read: {described(error)}") from error


def _shown(value: object) -> str:
    return f"{value!r:.60}"
