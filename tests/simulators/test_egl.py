"""Which device of EGL is which device of CUDA: on invented hosts, and what the drivers of this host say."""

from __future__ import annotations

import ctypes.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.simulators import drawing
from rlvla3.simulators.egl import MOST_DEVICES, CudaDevice, Devices, EglDevice, match, pci_address, read_answer

UUIDS = [f"{number:032x}" for number in range(16, 24)]
ADDRESSES = [f"0000:{number:02x}:00.0" for number in range(16, 24)]


def gpu(number: int, physical: int, *says: str, cuda: int | None = None) -> EglDevice:
    """NVIDIA's device `number` of EGL, which is the physical GPU `physical` and says what is named."""
    return EglDevice(number, False, True, UUIDS[physical] if "uuid" in says else "", ADDRESSES[physical] if "pci" in says else "", cuda)


def cuda(number: int, physical: int) -> CudaDevice:
    return CudaDevice(number, "NVIDIA H100", UUIDS[physical], ADDRESSES[physical])


@given(st.data())
def test_the_same_gpu_is_found_whatever_the_orders_and_whatever_egl_says(data: st.DataObject):
    count = data.draw(st.integers(1, 7))
    in_egl = data.draw(st.permutations(range(count)))
    visible = data.draw(st.permutations(range(count)))[: data.draw(st.integers(1, count))]  # CUDA_VISIBLE_DEVICES
    says = data.draw(st.sampled_from([("uuid",), ("pci",), ("uuid", "pci"), ("cuda",)]))
    numbers = {physical: number for number, physical in enumerate(visible)}
    devices = [gpu(number, physical, *says, cuda=numbers.get(physical) if "cuda" in says else None) for number, physical in enumerate(in_egl)]
    listed_by_mesa = [EglDevice(count + number, pci=ADDRESSES[physical]) for number, physical in enumerate(in_egl)]
    software = EglDevice(9, software=True)
    found = match([software, *listed_by_mesa, *devices], [cuda(number, physical) for number, physical in enumerate(visible)])
    assert {number: in_egl[device.number] for number, device in found.items()} == dict(enumerate(visible))


def test_what_is_surer_wins():
    """EGL's number of CUDA is not believed against a UUID, nor against an address."""
    first, second = gpu(0, 1, "uuid", cuda=0), gpu(1, 0, "uuid", cuda=1)
    assert match([first, second], [cuda(0, 0), cuda(1, 1)]) == {0: second, 1: first}
    assert match([gpu(0, 5, "pci", cuda=0)], [cuda(0, 0)]) == {}


@pytest.mark.parametrize(
    "devices",
    [
        pytest.param([], id="none"),
        pytest.param([EglDevice(0, software=True)], id="software"),
        pytest.param([gpu(0, 1, "uuid")], id="another GPU"),
        pytest.param([EglDevice(0)], id="says nothing"),
    ],
)
def test_a_device_of_which_nothing_is_known_is_not_guessed(devices: list[EglDevice]):
    assert match(devices, [cuda(0, 0)]) == {}


def test_gpus_that_two_parts_of_one_share_an_address_with_are_told_apart_by_their_uuids():
    parts = [CudaDevice(0, "MIG", UUIDS[0], ADDRESSES[0]), CudaDevice(1, "MIG", UUIDS[1], ADDRESSES[0])]
    device = EglDevice(0, False, True, UUIDS[1], ADDRESSES[0])
    assert match([device], parts) == {1: device}


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("0000:3B:00.0", "0000:3b:00.0"),
        ("00000000:3b:00.0\n", "0000:3b:00.0"),
        ("10000:01:00.0", "10000:01:00.0"),
        ("vgem", ""),
        ("", ""),
        ("renderD128", ""),
        ("a:b", ""),
    ],
)
def test_addresses_are_compared_in_one_form(written: str, address: str):
    assert pci_address(written) == address


def test_of_an_answer_that_is_cut_short_the_beginning_counts():
    whole = '{"osmesa": true, "nvidia_egl": false}\n{"cuda": [[0, "H100", "ab", "0000:01:00.0"]]}\n{"egl": [[0, true, false, "", "", null]]}\n'
    found = read_answer(whole, "it ended well")
    assert found == Devices([EglDevice(0, software=True)], [CudaDevice(0, "H100", "ab", "0000:01:00.0")], osmesa=True)
    cut = read_answer(whole[: whole.index('{"egl"')], "it crashed")
    assert cut == found._replace(egl=[], problem="the drivers were asked for their devices, and it crashed")


@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="the library libEGL is not installed")
def test_the_drivers_of_this_host_answer():
    found = drawing._look()
    assert not found.problem
    assert [device.number for device in found.egl] == list(range(len(found.egl))) and len(found.egl) <= MOST_DEVICES
    assert all(device.cuda is None and not device.nvidia for device in found.egl if device.software)
    assert found.osmesa == (ctypes.util.find_library("OSMesa") is not None)


@pytest.mark.gpu
def test_every_device_of_cuda_is_found_among_those_of_egl():
    found = drawing._look()
    if not found.cuda or not any(device.nvidia for device in found.egl):
        pytest.skip("needs a CUDA device whose driver draws too")
    same = match(found.egl, found.cuda)
    assert sorted(same) == [device.number for device in found.cuda]
    assert len({device.number for device in same.values()}) == len(same)
    for device in found.cuda:  # what both say agrees
        assert same[device.number].uuid in ("", device.uuid) and same[device.number].pci in ("", device.pci)
