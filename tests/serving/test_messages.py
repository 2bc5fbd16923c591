"""Messages as bytes: what the real clients write is read, and what is no message is refused in words."""

from __future__ import annotations

import io

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from openpi_client import msgpack_numpy
from PIL import Image
from vla_eval.protocol import messages as vla_eval_messages
from vla_eval.protocol import numpy_codec

from rlvla3.serving.messages import Dialect, MessageError, packed, unpacked

ARRAYS: dict[str, np.ndarray] = {
    "image": np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3),
    "state": np.linspace(-1, 1, 8),
    "float32": np.array([1.5, -2], np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "one": np.array(3.5),
    "yes": np.array([True, False]),
    "big-endian": np.arange(3, dtype=">i4"),
    "in Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def test_arrays_of_openpis_client_are_read_as_they_were():
    read = unpacked(msgpack_numpy.packb({**ARRAYS, "nested": ARRAYS, "prompt": "a", "number": np.float32(2.5), "count": np.int64(7)}))
    for arrays in (read, read["nested"]):
        for name, array in ARRAYS.items():
            assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape and (arrays[name] == array).all(), name
    assert read["number"] == np.float32(2.5) and read["count"] == 7 and read["prompt"] == "a"


@pytest.mark.parametrize("form", ["raw", "png"])
def test_messages_of_vla_eval_are_read_as_they_were(form, monkeypatch):
    monkeypatch.setattr(numpy_codec, "_image_format", form)
    kind = vla_eval_messages.MessageType.OBSERVATION
    read = unpacked(vla_eval_messages.pack_message(vla_eval_messages.Message(kind, {"images": ARRAYS}, seq=4)))
    assert read["type"] == "observation" and read["seq"] == 4
    for name, array in ARRAYS.items():
        assert (read["payload"]["images"][name] == array).all(), name


def test_a_jpeg_image_is_read_as_pillow_reads_it():
    image = np.random.default_rng(0).integers(256, size=(16, 24, 3), dtype=np.uint8)
    sent = numpy_codec.encode_image(image, "jpeg")
    with Image.open(io.BytesIO(sent["data"])) as opened:
        assert (unpacked(msgpack.packb(sent)) == np.asarray(opened)).all()


def test_the_real_clients_read_what_is_written():
    answer = {"actions": ARRAYS["float32"], "server_timing": {"infer_ms": 1.5}}
    read = msgpack_numpy.unpackb(packed(answer, "openpi"))
    assert (read["actions"] == answer["actions"]).all() and read["server_timing"] == {"infer_ms": 1.5}
    message = vla_eval_messages.unpack_message(packed({"type": "action", "payload": answer, "seq": 3, "timestamp": 0.5}, "vla-eval"))
    assert message.seq == 3 and (message.payload["actions"] == answer["actions"]).all()


def array(**changed):
    return {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2], **changed}


REFUSED = {
    "text": ("hello", "text frame"),
    "no msgpack": (b"\xc1", "no msgpack"),
    "half a message": (msgpack.packb({"a": bytes(100)})[:50], "no msgpack"),
    "two messages": (msgpack.packb(1) * 2, "no msgpack"),
    "maps in maps": (b"\x81\xa1a" * 100_000 + b"\x01", "no msgpack"),
    "a map by numbers": (msgpack.packb({1: 2}), "no msgpack"),
    "a length that is not there": (b"\xdf\xff\xff\xff\xff", "no msgpack"),
    "bad UTF-8": (b"\x81\xa1\xff\x01", "no msgpack"),
    "objects": (msgpack.packb(array(dtype="|O")), "dtype '|O'"),
    "complex numbers": (msgpack.packb(array(dtype="<c8")), "dtype '<c8'"),
    "a record": (msgpack.packb(array(dtype="f4,f4")), "dtype 'f4,f4'"),
    "a dtype that is none": (msgpack.packb(array(dtype=None)), "dtype None"),
    "a dtype with a shape": (msgpack.packb(array(dtype="(1000000000,)f4")), "dtype"),
    "a shape that is too large": (msgpack.packb(array(shape=[2**40, 2**40])), "do not belong together"),
    "a shape beyond all": (msgpack.packb(array(data=b"", shape=[0, 2**64 - 1])), "no msgpack"),
    "a negative shape": (msgpack.packb(array(shape=[-1])), "without its data or its shape"),
    "a shape of texts": (msgpack.packb(array(shape=["2"])), "without its data or its shape"),
    "a shape that is true": (msgpack.packb(array(shape=[True, 2])), "without its data or its shape"),
    "no data": (msgpack.packb(array(data=None)), "without its data or its shape"),
    "another size": (msgpack.packb(array(data=bytes(7))), "do not belong together"),
    "a million dimensions": (msgpack.packb(array(shape=[2**60] * 10**6)), "do not belong together"),
    "a list that is longer than all": (msgpack.packb([0] * (2**20 + 1)), "no msgpack"),
    "many empty lists": (msgpack.packb([[[]] * 1000] * 200), "more than 131072 lists and maps"),
    "many dimensions": (msgpack.packb(array(shape=[1] * 60 + [2])), "do not belong together"),
    "no numpy number": (msgpack.packb({"__npgeneric__": True, "data": "x", "dtype": "<f4"}), "send a number"),
    "a number that is too large": (msgpack.packb({"__npgeneric__": True, "data": 300, "dtype": "|u1"}), "does not hold"),
    "an image of no format": (msgpack.packb({"__image__": True, "format": "gif", "data": b""}), "the format 'gif'"),
    "an image that is none": (msgpack.packb({"__image__": True, "format": "png", "data": b"no"}), "cannot be read"),
    "a raw image without a shape": (msgpack.packb({"__image__": True, "format": "raw", "data": b"no", "dtype": "|u1"}), "without its data or its shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_message_is_refused_in_words(name):
    data, word = REFUSED[name]
    with pytest.raises(MessageError, match=word.replace("(", r"\(").replace("|", r"\|")):
        unpacked(data)


@pytest.mark.parametrize("side", [6_000, 20_000])
def test_a_small_file_that_holds_a_huge_image_is_refused(side):
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    assert len(file.getvalue()) < 500_000
    with pytest.raises(MessageError, match=r"6000 x 6000 pixels|400000000 pixels"):
        unpacked(msgpack.packb({"__image__": True, "format": "png", "data": file.getvalue()}))


def test_many_small_files_that_hold_large_images_are_refused():
    file = io.BytesIO()
    Image.new("1", (2048, 2048)).save(file, "PNG")
    image = {"__image__": True, "format": "png", "data": file.getvalue()}
    assert len(unpacked(msgpack.packb([image] * 4))) == 4
    with pytest.raises(MessageError, match="2048 x 2048 pixels, and the compressed images of its message 20971520 with it: send at most 16777216"):
        unpacked(msgpack.packb([image] * 5))


MEANT = ("__ndarray__", "__image__", "__npgeneric__", "data", "dtype", "shape", "format")
PARTS = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**63), 2**63 - 1) | some.floats() | some.text(max_size=8) | some.binary(max_size=16),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(
            some.text(max_size=4) | some.sampled_from(["__ndarray__", "__image__", "__npgeneric__", "data", "dtype", "shape", "format"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(some.binary(max_size=200) | PARTS.map(msgpack.packb))
def test_any_bytes_are_read_or_refused_in_words(data):
    try:
        unpacked(data)
    except MessageError as error:
        assert len(str(error)) < 500


def test_only_plain_data_is_written():
    dialects: list[Dialect] = ["openpi", "vla-eval"]
    for dialect in dialects:
        with pytest.raises(TypeError):
            packed({"a": object()}, dialect)
