"""A pinned version of the weights: it stays while newer ones come, and costs no copy from the plane when it changes places with the newest."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory, WeightsError


def weights(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((3, 4), value), "b": torch.full((5,), value)}


def value_of(tensors: dict[str, Tensor]) -> float:
    (value,) = {float(number) for tensor in tensors.values() for number in tensor.unique()}
    return value


class Both:
    """A trainer and a generator of one host."""

    def __init__(self) -> None:
        self.memory = WeightMemory(pins=True)
        self.source, self.target = weights(0), weights(-1)
        self.trainer, self.generator = WeightPlane(self.memory, self.source), WeightPlane(self.memory, self.target)
        self.version = -1

    def publish(self) -> None:
        self.version += 1
        for tensor in self.source.values():
            tensor.fill_(self.version)
        self.trainer.publish(self.version)


@pytest.mark.parametrize("seed", range(50))
def test_each_load_gives_the_version_that_it_names_whatever_came_before(seed: int) -> None:
    draw, both = random.Random(seed), Both()
    both.publish()
    for _ in range(200):
        match draw.choice(["publish", "newest", "pinned", "pinned", "pin", "release", "successor"]):
            case "publish":
                both.publish()
            case "newest":
                assert both.generator.load() == value_of(both.target) == both.version
            case "pinned" if both.memory.pinned >= 0:
                assert both.generator.load(pinned=True) == value_of(both.target) == both.memory.pinned
            case "pin" if both.memory.pinned < 0:
                both.memory.pin()
                assert both.memory.pinned == both.version
            case "release" if draw.random() < 0.2:
                both.memory.release()
            case "successor" if draw.random() < 0.1:
                both.target = weights(-1)
                both.generator = WeightPlane(both.memory, both.target)


def test_the_two_versions_change_places_without_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both()
    both.publish()
    both.generator.load()
    both.memory.pin()
    both.publish()
    both.generator.load()
    addresses = [tensor.data_ptr() for tensor in both.target.values()]
    monkeypatch.setattr(both.generator, "_load", lambda pinned: pytest.fail("it was read from the plane"))
    for _ in range(3):
        assert both.generator.load(pinned=True) == value_of(both.target) == 0
        assert both.generator.load() == value_of(both.target) == 1
    assert [tensor.data_ptr() for tensor in both.target.values()] == addresses  # CUDA graphs read weights at their addresses


def test_a_version_that_nobody_wants_again_is_not_kept_aside() -> None:
    """With engine.offload, training waits for the evaluation of the newest version, and has the device afterwards."""
    both = Both()
    both.publish()
    both.generator.load()
    both.publish()
    both.memory.pin()
    assert both.generator.load(pinned=True) == 1
    assert both.generator._aside is None
    both.memory.release()
    both.publish()
    assert both.generator.load() == 2
    assert both.generator._aside is None


def test_what_was_kept_aside_is_given_up_when_the_version_is_released() -> None:
    both = Both()
    both.publish()
    both.generator.load()
    both.memory.pin()
    both.publish()
    both.generator.load()
    assert both.generator._aside is not None
    both.memory.release()
    both.publish()
    assert both.generator.load() == 2
    assert both.generator._aside is None


def test_another_host_gets_a_copy_that_its_relay_does_not_overwrite() -> None:
    both, there = Both(), WeightMemory(pins=True)
    both.publish()
    both.memory.pin()
    there.put_pinned(both.memory.take_pinned())
    target = weights(-1)
    generator = WeightPlane(there, target)
    for version in range(5, 9):  # what a relay does
        which = there.begin()
        there.lay_out(both.trainer.size, int(there.header["layout"][0]))[which][:] = 0
        there.complete(which, version)
    assert (there.newest, there.pinned) == (8, 0)
    assert generator.load(pinned=True) == value_of(target) == 0


def test_without_a_pinned_version_it_says_so() -> None:
    both = Both()
    both.publish()
    with pytest.raises(WeightsError, match="no version of the weights is pinned"):
        both.generator.load(pinned=True)
