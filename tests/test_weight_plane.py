"""The weight plane: no version is ever torn, neither between two real processes nor where one overtakes the other in the middle of a copy."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from rlvla3.links.doorbell import Doorbell
from rlvla3.links.weight_memory import WeightMemory
from rlvla3.links.weight_plane import WeightPlane
from tests.processes import PATIENCE_S, another_process

LAST_VERSION = 3000


def weights(value: float = -1.0) -> dict[str, Tensor]:
    """Eight layers that all hold one value."""
    return {f"layer {number}": torch.full((100, 200), value) for number in range(8)}


def values(tensors: Mapping[str, Tensor]) -> set[float]:
    return {value for tensor in tensors.values() for value in tensor.unique().tolist()}


def fill(tensors: Mapping[str, Tensor], version: int) -> None:
    for tensor in tensors.values():
        tensor.fill_(version)


def publish_many(memory: WeightMemory, started: Doorbell) -> None:
    torch.set_num_threads(1)
    tensors = weights()
    plane = WeightPlane(memory, tensors)
    for version in range(LAST_VERSION + 1):
        fill(tensors, version)
        plane.publish(version)
        if version == 0:
            started.ring(0)


def test_a_reader_never_sees_a_torn_version_while_another_process_publishes():
    memory, started = WeightMemory(), Doorbell()
    tensors = {name: tensor.T.clone().T for name, tensor in weights().items()}  # against the grain: read far slower than written
    plane = WeightPlane(memory, tensors)
    versions = [-1]
    with another_process(publish_many, memory, started):
        asyncio.run(asyncio.wait_for(started.wait(), PATIENCE_S))
        while versions[-1] < LAST_VERSION:
            versions.append(plane.load())
            assert values(tensors) == {versions[-1]}
    assert versions == sorted(versions)
    assert len(set(versions)) > 10, "reading and writing did not overlap"


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
