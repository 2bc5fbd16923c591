"""The weight plane: no version is ever torn, neither between two real processes nor where one overtakes the other in the middle of a copy."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlvla3.choices import OnHost
from rlvla3.links.doorbell import Doorbell
from rlvla3.links.weights.layout import WeightLayout
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory, WeightsError
from tests.support.processes import PATIENCE_S, another_process

LAST_VERSION, BURST = 3000, 30


def weights(value: float = -1.0) -> dict[str, Tensor]:
    """Eight layers that all hold one value."""
    return {f"layer {number}": torch.full((100, 200), value) for number in range(8)}


def values(tensors: Mapping[str, Tensor]) -> set[float]:
    return {value for tensor in tensors.values() for value in tensor.unique().tolist()}


def fill(tensors: Mapping[str, Tensor], version: int) -> None:
    for tensor in tensors.values():
        tensor.fill_(version)


def publish_many(memory: WeightMemory, seen: Seen, on_host: OnHost = "shared_memory", device: str = "cpu") -> None:
    torch.set_num_threads(1)
    tensors = {name: tensor.to(device) for name, tensor in weights().items()}
    plane = WeightPlane(memory, tensors, on_host=on_host)
    for version in range(LAST_VERSION + 1):
        fill(tensors, version)
        plane.publish(version)
        if version == 0:
            seen.started.ring(0)
        if version % BURST == 0:
            assert seen.another.acquire(timeout=PATIENCE_S)
    assert seen.last.wait(PATIENCE_S)


class Seen:
    """What the reader tells the writer.

    started: rung by the writer, when there is something to read. another: acquired once a burst, and released for each version that the reader has seen. So
    however slow or late the reader is, it sees a version of every burst, and it is never overtaken without end. last: the reader has seen the last version.
    The writer ends no earlier: the memory of its device ends with it, while host memory does not.
    """

    def __init__(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.started, self.another, self.last = Doorbell(), spawning.Semaphore(0), spawning.Event()


def never_torn(on_host: OnHost, device: str) -> None:
    memory, seen = WeightMemory(), Seen()
    tensors = {name: tensor.to(device).T.contiguous().T for name, tensor in weights().items()}  # against the grain: read far slower than written
    plane = WeightPlane(memory, tensors, on_host=on_host)
    versions = [-1]
    with another_process(publish_many, memory, seen, on_host, device):
        asyncio.run(asyncio.wait_for(seen.started.wait(), PATIENCE_S))
        while versions[-1] < LAST_VERSION:
            version = plane.load()
            assert values(tensors) == {version}
            if version != versions[-1]:
                versions.append(version)
                seen.another.release()
        seen.last.set()
    assert versions == sorted(versions)
    assert len(versions) > LAST_VERSION / BURST


@pytest.mark.slow
@pytest.mark.parametrize("on_host", get_args(OnHost))
def test_a_reader_never_sees_a_torn_version_while_another_process_publishes(on_host: OnHost):
    """Where buffers are on the device of whoever publishes, on the CPU they are memory that torch hands over to one other process."""
    never_torn(on_host, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("on_host", get_args(OnHost))
def test_on_a_gpu_a_reader_never_sees_a_torn_version(on_host: OnHost):
    never_torn(on_host, "cuda")


def test_who_maps_a_gpus_memory_must_have_the_same_weights():
    memory = WeightMemory()
    WeightPlane(memory, weights(), on_host="cuda_ipc").publish(0)
    with pytest.raises(WeightsError, match="one recipe"):
        WeightPlane(memory, weights() | {"more": torch.zeros(1)}, on_host="cuda_ipc")


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")])]


@pytest.mark.parametrize("device", DEVICES)
def test_lanes_of_one_process_share_the_writers_buffers_as_a_process_cannot_map_its_own(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlvla3.links.weights.buffers.pickle.loads", None)  # the CPU would map its own memory without a word
    memory = WeightMemory()
    source, target = ({name: tensor.to(device) for name, tensor in weights(value).items()} for value in (5.0, 0.0))
    writer, reader = (WeightPlane(memory, tensors, on_host="cuda_ipc") for tensors in (source, target))
    writer.publish(3)
    assert reader.load() == 3 and values(target) == {5.0}
    theirs, ours = writer._buffers.to_write(), reader._buffers.to_read()
    assert [buffer.data_ptr() for buffer in ours] == [buffer.data_ptr() for buffer in theirs]


class Interrupted(UserDict[str, Tensor]):
    """Tensors that are gone through one by one, with something done after the first. Once."""

    meanwhile: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[str]:
        for name in self.data:
            yield name
            if (meanwhile := self.meanwhile) is not None:
                self.meanwhile = None
                meanwhile()


def test_a_reader_that_is_overtaken_in_the_middle_of_a_copy_copies_again():
    memory, source, target = WeightMemory(), weights(), Interrupted(weights())
    trainer, generator = WeightPlane(memory, source), WeightPlane(memory, target)

    def publish(*versions: int) -> None:
        for version in versions:
            fill(source, version)
            trainer.publish(version)

    publish(0)
    target.meanwhile = lambda: publish(1, 2)  # version 2 goes into the buffer that is being read
    assert generator.load() == 2
    assert values(target) == {2}


def test_a_reader_whose_buffer_is_being_written_when_it_ends_copies_again():
    memory, source, target = WeightMemory(), Interrupted(weights(0.0)), Interrupted(weights())
    trainer, generator = WeightPlane(memory, source), WeightPlane(memory, target)
    half_written, go_on = threading.Event(), threading.Event()
    trainer.publish(0)

    def stop_half_way() -> None:
        half_written.set()
        assert go_on.wait(PATIENCE_S)

    def write_two_in_part() -> None:
        fill(source, 1)
        trainer.publish(1)
        fill(source, 2)
        source.meanwhile = stop_half_way
        second.start()
        assert half_written.wait(PATIENCE_S)

    second = threading.Thread(target=trainer.publish, args=(2,))
    target.meanwhile = write_two_in_part
    assert (generator.load(), values(target)) == (1, {1})
    go_on.set()
    second.join(PATIENCE_S)
    assert (generator.load(), values(target)) == (2, {2})


def test_a_reader_in_the_middle_of_a_publication_gets_the_version_before_it():
    memory, source, target = WeightMemory(), Interrupted(weights(0.0)), weights()
    trainer, generator = WeightPlane(memory, source), WeightPlane(memory, target)
    trainer.publish(0)
    loaded = []
    for version in (1, 2):
        fill(source, version)
        source.meanwhile = lambda: loaded.append((generator.newest, generator.load(), values(target)))
        trainer.publish(version)
    assert loaded == [(0, 0, {0}), (1, 1, {1})]
    assert (generator.load(), values(target)) == (2, {2})


def test_every_type_and_shape_arrives_in_place_and_as_it_was_when_published():
    source = {
        "half": torch.randn(3, 2).half(),
        "double": torch.randn(2, 2, dtype=torch.float64),
        "count": torch.tensor(2**40),
        "mask": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 4),
        "transposed": torch.randn(3, 5).T,
        "brain": torch.randn(4, 3).bfloat16(),
    }
    target = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    expected = {name: tensor.clone() for name, tensor in source.items()}
    places = {name: tensor.data_ptr() for name, tensor in target.items()}
    memory = WeightMemory()
    trainer, generator = WeightPlane(memory, source), WeightPlane(memory, target)
    assert generator.newest == -1

    trainer.publish(7)
    for tensor in source.values():
        tensor.zero_()  # the next update is under way

    assert (generator.newest, generator.load()) == (7, 7)
    for name, tensor in target.items():
        assert torch.equal(tensor, expected[name])
        assert tensor.data_ptr() == places[name]


def test_as_bf16_matrices_travel_in_half_the_bytes_and_vectors_exactly():
    source = {"matrix": torch.randn(64, 64), "bias": torch.randn(64), "steps": torch.tensor(2**40), "scale": torch.tensor(0.1, dtype=torch.float64)}
    target = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    other = {name: torch.zeros_like(tensor, dtype=torch.bfloat16 if tensor.is_floating_point() else None) for name, tensor in source.items()}
    memory = WeightMemory()
    trainer, generator, smaller = (WeightPlane(memory, tensors, "bf16") for tensors in (source, target, other))
    trainer.publish(0)
    generator.load()
    smaller.load()
    assert trainer.size < 0.55 * WeightPlane(WeightMemory(), source).size
    assert torch.equal(target["matrix"], source["matrix"].bfloat16().float())
    assert torch.equal(target["bias"], source["bias"])
    assert target["steps"] == source["steps"]
    assert target["scale"] == source["scale"].float()
    for name, tensor in other.items():  # a generator's own type is its own affair
        assert torch.equal(tensor, source[name].to(tensor.dtype))


def test_the_version_before_can_be_read_while_the_next_is_written_whatever_their_numbers():
    memory, source, target = WeightMemory(), Interrupted(weights(0.0)), weights()
    trainer, generator = WeightPlane(memory, source), WeightPlane(memory, target)
    loaded = []
    for version in (0, 2, 4, 5, 7):
        fill(source, version)
        source.meanwhile = (lambda: loaded.append((generator.load(), values(target)))) if version else None
        trainer.publish(version)
    assert loaded == [(0, {0}), (2, {2}), (4, {4}), (5, {5})]


class Held(WeightPlane):
    """A plane whose thread waits before it writes."""

    def __init__(self, memory: WeightMemory, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(memory, tensors, overlap=True)
        self.let_go, self.broken = threading.Event(), False

    def _pour(self, *args):
        assert self.let_go.wait(PATIENCE_S)
        self.let_go.clear()
        if self.broken:
            raise OSError("no memory")
        super()._pour(*args)


def test_in_a_thread_a_publication_goes_on_while_the_weights_change():
    memory, source, target = WeightMemory(), weights(0.0), weights()
    trainer, generator = Held(memory, source), WeightPlane(memory, target)
    told: list[int] = []
    trainer.publish(0, then=lambda: told.append(generator.newest))
    fill(source, 1)  # the next update
    assert (generator.newest, told) == (-1, [])
    trainer.let_go.set()
    trainer.finish()
    assert (told, generator.load(), values(target)) == ([0], 0, {0})  # told when it was there, of what was there at the time

    trainer.let_go.set()
    trainer.publish(1)  # nobody is to be told: it is there when this returns
    assert (generator.load(), values(target)) == (1, {1})


def test_a_publication_waits_for_the_one_before_and_raises_its_error():
    memory, source = WeightMemory(), weights(0.0)
    trainer = Held(memory, source)
    trainer.broken = True
    trainer.publish(0, then=lambda: None)
    threading.Timer(0.05, trainer.let_go.set).start()
    with pytest.raises(OSError, match="no memory"):
        trainer.publish(1, then=lambda: None)
    assert trainer.newest == -1


def test_without_a_thread_they_are_told_at_once():
    told: list[int] = []
    plane = WeightPlane(WeightMemory(), weights(0.0))
    plane.publish(3, then=lambda: told.append(plane.newest))
    assert told == [3]


def test_what_does_not_fit_and_what_is_not_there_is_refused():
    memory = WeightMemory()
    plane = WeightPlane(memory, weights())
    with pytest.raises(WeightsError, match="no version of the weights has been published yet"):
        plane.load()
    for others in (weights() | {"more": torch.zeros(1)}, {name: tensor.T for name, tensor in weights().items()}):
        with pytest.raises(WeightsError, match="one recipe"):
            WeightPlane(memory, others)
    with pytest.raises(WeightsError, match=r"weights\.dtype"):
        WeightPlane(memory, weights(), "bf16")


sizes = st.lists(st.integers(0, 300), max_size=20)


@given(sizes, st.integers(1, 2000))
def test_buckets_hold_every_tensor_once_and_whole(counts: list[int], bucket_bytes: int):
    tensors = {str(number): torch.full((count,), float(number)) for number, count in enumerate(counts)}
    layout = WeightLayout(tensors, bucket_bytes=bucket_bytes)
    flat = torch.zeros(layout.size, dtype=torch.uint8)
    for name, view in layout.views(flat).items():
        view.copy_(tensors[name])
    assert [name for bucket in layout.buckets for name in bucket.names] == list(tensors)
    end = 0
    for bucket in layout.buckets:
        assert end <= bucket.start <= bucket.end <= layout.size
        assert len(bucket.names) == 1 or bucket.end - bucket.start <= bucket_bytes
        end = bucket.end
        part = flat[bucket.start : bucket.end]
        for name in bucket.names:
            assert torch.equal(layout.places[name].view(part, bucket.start), tensors[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_versions_cross_in_buckets_and_arrive_as_they_were(monkeypatch):
    monkeypatch.setattr("rlvla3.links.weights.plane.WeightLayout", partial(WeightLayout, bucket_bytes=1 << 18))  # three tensors each
    source, target = ({name: tensor.cuda() for name, tensor in weights(0.0).items()} for _ in range(2))
    memory = WeightMemory()
    trainer, generator = WeightPlane(memory, source), WeightPlane(memory, target)
    for version in range(20):
        fill(source, version)
        trainer.publish(version, then=lambda: None)
        fill(source, -1)  # the next update does not wait
        trainer.finish()
        assert (generator.load(), values(target)) == (version, {version})
