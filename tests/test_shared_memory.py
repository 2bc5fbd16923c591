"""Shared arrays between two real processes and by hand."""

from __future__ import annotations

import gc
import re
import sys
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from rlvla3.links.data_plane import DataPlane
from rlvla3.links.doorbell import Doorbell
from rlvla3.links.rollouts import RolloutSpec
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.shared_memory import ALIGNMENT, SharedArrays
from rlvla3.types import Field
from tests.support.event_loop_plane import SPACES
from tests.support.processes import another_process


def double(arrays: SharedArrays) -> None:
    for array in arrays.values():
        array *= 2


def test_what_one_process_writes_the_other_reads():
    layout = {"image": Field((2, 3), np.uint8), "none": Field((4, 0), np.float32), "one": Field((), np.int64), "state": Field((5,), np.float32)}
    arrays = SharedArrays(layout)
    for array in arrays.values():
        array[...] = np.arange(1, array.size + 1).reshape(array.shape)
    with another_process(double, arrays):
        pass
    assert list(arrays) == list(layout)
    for name, array in arrays.items():
        assert (array.shape, array.dtype) == (layout[name].shape, layout[name].dtype)
        np.testing.assert_array_equal(array, 2 * np.arange(1, array.size + 1).reshape(array.shape))


shapes = st.one_of(st.just(()), st.just((3, 0)), array_shapes(max_dims=3, max_side=9))


layouts = st.lists(st.tuples(shapes, st.sampled_from([np.bool_, np.uint8, np.int16, np.float32, np.float64])), max_size=8)


@given(layouts)
def test_arrays_begin_as_zeros_on_cache_lines_of_their_own(fields: list[tuple[tuple[int, ...], Any]]):
    arrays = SharedArrays({str(number): Field(shape, dtype) for number, (shape, dtype) in enumerate(fields)})
    for number, array in enumerate(arrays.values()):
        assert not array.any()
        assert array.ctypes.data % ALIGNMENT == 0 or not array.size
        array[...] = number + 1
    for number, (array, (_, dtype)) in enumerate(zip(arrays.values(), fields, strict=True)):
        assert (array == np.array(number + 1, dtype)).all()


def test_an_array_outlives_the_plane_it_came_from():
    array = SharedArrays({"numbers": Field((3,), np.int64)})["numbers"]
    gc.collect()
    array[:] = 7
    assert array.sum() == 21


def look(*links: Any) -> None:
    """What a worker does with links at the least: being handed them."""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_links_have_no_name_in_the_file_system_and_leave_no_descriptor_behind():
    resource_tracker.ensure_running()  # multiprocessing starts it once, with the first process
    before, named = descriptors(), named_memory()  # some of another library's, of an earlier test
    links = [DataPlane(RolloutSpec(SPACES, chunk=2, trace={}, capacity=3), lay_out([Sharding(2, 2)], 2), generators=2), WeightMemory(), Doorbell()]
    assert named_memory() == named
    with another_process(look, *links):
        assert len(descriptors()) > len(before)
    links.clear()
    gc.collect()
    assert descriptors() == before


def named_memory() -> set[str]:
    """The files of shared memory that this process has mapped."""
    return set(re.findall(r"/dev/shm/\S*", Path("/proc/self/maps").read_text()))


def descriptors() -> dict[str, str]:
    """The open descriptors of this process, and what they are of; that of the listing itself is gone by the time it is looked at."""
    return {path.name: str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
