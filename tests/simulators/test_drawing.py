"""Where a host can draw: the decision on invented hosts, and the real thing in processes of its own."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlvla3.config import Recipe, SimulatorConfig, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.runtimes.supervision.host_supervisor import HostSupervisor
from rlvla3.simulators import drawing
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.drawing import Drawing, Trial, choose, find_drawing, named_by_user, place_here, place_simulator, places_of
from rlvla3.simulators.egl import CudaDevice, Devices, EglDevice
from tests.support.processes import in_fresh_process

VARIABLES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES")
SOFTWARE = EglDevice(2, software=True)
H100S = [CudaDevice(0, "NVIDIA H100", "a" * 32), CudaDevice(1, "NVIDIA H100", "b" * 32)]
SWAPPED = [EglDevice(0, nvidia=True, uuid="b" * 32), EglDevice(1, nvidia=True, uuid="a" * 32), SOFTWARE]
TWO_GPUS = Drawing(("egl:1", "egl:0"), {0: "egl:1", 1: "egl:0"}, {"egl:0": "NVIDIA H100", "egl:1": "NVIDIA H100"})
LLVMPIPE = Trial("llvmpipe (LLVM 15.0.6, 256 bits)")

needs_mujoco = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="mujoco is not installed")
needs_osmesa = pytest.mark.skipif(ctypes.util.find_library("OSMesa") is None, reason="the library libOSMesa is not installed")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing about drawing."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def answers(**trials: Trial) -> Callable[[Sequence[int]], list[Trial]]:
    """A stand-in for real trials. Devices that are not named as egl0, egl1, ... draw."""
    return lambda numbers: [trials.get(f"egl{number}", Trial("NVIDIA H100/PCIe/SSE2")) for number in numbers]


def never(numbers: Sequence[int]) -> list[Trial]:
    assert not numbers, "nothing is to be tried here"
    return []


def said(drawing: Drawing) -> str:
    return drawing.sentence(drawing.places, asked=False)


def test_gpus_draw_in_the_order_of_cuda():
    host = choose(Devices(SWAPPED, H100S, osmesa=True), {}, answers())
    assert host.places == ("egl:1", "egl:0")
    assert host.cuda == {0: "egl:1", 1: "egl:0"}
    assert said(host) == "drawing: EGL on cuda:0, cuda:1 (NVIDIA H100, EGL devices 1, 0)"
    assert host.sentence(["egl:0"], asked=True) == "drawing: EGL on cuda:1 (NVIDIA H100, EGL device 0)"


def test_a_gpu_that_fails_its_trial_does_not_draw():
    host = choose(Devices(SWAPPED, H100S, osmesa=True), {}, answers(egl1=Trial(error="Cannot create an EGL context.")))
    assert host.places == ("egl:0",)
    assert said(host) == "drawing: EGL on cuda:1 (NVIDIA H100, EGL device 0); cuda:0 cannot draw (Cannot create an EGL context.)"
    with pytest.raises(RecipeError, match=r"simulator.devices names cuda:0, which cannot draw, because Cannot create an EGL context.: leave"):
        host.place("cuda:0")


def test_osmesa_draws_where_no_gpu_does_and_the_reason_is_said():
    host = choose(Devices(SWAPPED, H100S, osmesa=True), {}, answers(egl0=Trial(error="the process was ended by signal 11"), egl1=LLVMPIPE))
    assert host.places == ("cpu",)
    assert said(host) == f"drawing: OSMesa on the CPU, because EGL cannot draw on its device 1: {LLVMPIPE.drawn_by} draws there, which is software"


COMPUTES_ONLY = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}


@pytest.mark.parametrize(
    ("found", "variables", "reason"),
    [
        (Devices([SOFTWARE]), {}, "EGL has no GPU here"),
        (Devices(problem="the library libEGL.so.1 is missing (Debian's package libegl1)"), {}, r"libEGL.so.1 is missing"),
        (Devices([SOFTWARE], H100S), COMPUTES_ONLY, "start it with NVIDIA_DRIVER_CAPABILITIES=all, where it is compute,utility now"),
        (Devices([SOFTWARE], H100S), {}, r"libEGL_nvidia.so.0\) is missing"),
        (Devices([SOFTWARE], H100S, nvidia_egl=True), {"NVIDIA_DRIVER_CAPABILITIES": "all"}, "10_nvidia.json is missing"),
        (Devices(SWAPPED), {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES hides the GPUs"),
        (Devices([EglDevice(0, nvidia=True)], H100S), {"CUDA_VISIBLE_DEVICES": "1"}, r"CUDA_VISIBLE_DEVICES=1 shows .*egl:0"),
    ],
)
def test_the_reason_names_what_is_missing(found: Devices, variables: dict[str, str], reason: str):
    host = choose(found._replace(osmesa=True), variables, never)
    assert host.places == ("cpu",)
    with pytest.raises(RecipeError, match=r"simulator.devices names cuda:0, which cannot draw, because "):
        host.place("cuda:0")
    assert re.search(reason, host.because)
    with pytest.raises(SimulatorError, match=rf"^frames cannot be drawn on this host. EGL: .*{reason}.*apt-get install libosmesa6 libegl1 libgl1"):
        choose(found, variables, answers(egl2=Trial(error="no context")))


def test_gpus_of_other_makers_draw_without_a_number_of_cuda():
    intel, hidden = EglDevice(0, pci="0000:00:02.0"), EglDevice(3, pci="0000:01:00.0")
    nvidia = EglDevice(1, nvidia=True, pci="0000:01:00.0")
    host = choose(Devices([intel, nvidia, SOFTWARE, hidden]), {"CUDA_VISIBLE_DEVICES": ""}, answers(egl0=Trial("Mesa Intel UHD")))
    assert host.places == ("egl:0",)
    assert said(host) == "drawing: EGL on egl:0 (Mesa Intel UHD, EGL device 0)"
    assert choose(Devices([intel, nvidia, SOFTWARE, hidden]), {}, answers()).places == ("egl:1", "egl:0")


def test_egl_in_software_comes_last():
    host = choose(Devices([SOFTWARE]), {}, answers(egl2=LLVMPIPE))
    assert said(host) == f"drawing: EGL on egl:2 ({LLVMPIPE.drawn_by}, EGL device 2), because EGL has no GPU here, and OSMesa is missing"
    with pytest.raises(RecipeError, match=r"simulator.devices names cpu, where OSMesa draws, and the library libOSMesa is missing: .*apt-get install"):
        host.place("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "egl:", "egl:x", "cpu:0", "xpu:1"])
def test_devices_that_mean_nothing_are_refused(device: str):
    with pytest.raises(RecipeError, match=f"simulator.devices names {device}, but MuJoCo draws only on devices such as cuda:0, egl:0 or cpu"):
        TWO_GPUS.place(device)


def test_devices_of_a_recipe_are_found_by_their_numbers():
    assert [TWO_GPUS.place(device) for device in ("cuda", "cuda:0", "cuda:1", "egl:1", "cpu")] == ["egl:1", "egl:1", "egl:0", "egl:1", "cpu"]
    with pytest.raises(RecipeError, match="CUDA has 2 devices here"):
        TWO_GPUS.place("cuda:2")


@pytest.mark.parametrize(
    ("variables", "asked", "named"),
    [
        ({}, (), ""),
        ({"MUJOCO_GL": "osmesa"}, ("cuda:0",), "MUJOCO_GL=osmesa"),
        ({"MUJOCO_GL": "glfw"}, (), "MUJOCO_GL=glfw"),
        ({"MUJOCO_GL": "", "PYOPENGL_PLATFORM": "osmesa"}, (), "PYOPENGL_PLATFORM=osmesa"),
        ({"MUJOCO_GL": "EGL"}, (), ""),
        ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "3"}, (), "MUJOCO_GL=egl"),
        ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "3"}, ("cuda:0",), ""),
    ],
)
def test_the_environment_wins(variables: dict[str, str], asked: Sequence[str], named: str):
    assert named_by_user(variables, asked) == named


def test_shards_take_the_gpus_in_turn_within_those_they_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawing, "find_drawing", lambda python="": TWO_GPUS)
    assert places_of([])[0] == ["egl:1", "egl:0"]
    assert places_of([], within=["cuda:1"]) == (["egl:0"], "drawing: EGL on cuda:1 (NVIDIA H100, EGL device 0)")
    assert places_of(["cuda:1", "cpu"], within=["cuda:0"])[0] == ["egl:0", "cpu"]
    assert places_of(["cpu"]) == (["cpu"], "drawing: OSMesa on the CPU, as simulator.devices says")
    assert (place_here(""), place_here("cuda:1"), place_here("egl:7")) == ("egl:1", "egl:0", "egl:7")


def test_a_users_own_choice_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawing, "find_drawing", lambda python="": Drawing(("cpu",), because="EGL has no GPU here"))
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert places_of([]) == ([""], "drawing: EGL, as the environment says, although EGL has no GPU here")
    monkeypatch.setattr(drawing, "find_drawing", lambda python="": pytest.fail("nothing is looked for"))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert places_of([]) == ([""], "drawing: as MUJOCO_GL=osmesa says")
    assert places_of(["cuda:0"]) == ([""], "drawing: as MUJOCO_GL=osmesa says, so simulator.devices is not used for it")
    assert (place_here(""), place_here("cuda:0"), place_here("egl:1")) == ("", "", "")


def test_only_simulators_that_draw_with_mujoco_are_placed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawing, "find_drawing", lambda python="": TWO_GPUS)
    config, sentence = place_simulator(SimulatorConfig(name="metaworld", tasks=["reach-v3"]))
    assert (config.devices, sentence) == (["egl:1", "egl:0"], "drawing: EGL on cuda:0, cuda:1 (NVIDIA H100, EGL devices 1, 0)")
    other = SimulatorConfig(name="gymnasium:CartPole-v1", devices=["cuda:0"])
    assert place_simulator(other) == (other, "")


def mix() -> Recipe:
    simulators = {"one": {"name": "metaworld", "tasks": ["reach-v3"], "shards": 3}, "two": {"name": "metaworld", "tasks": ["push-v3"], "shards": 1}}
    return make_recipe({"simulators": simulators, "policy": {"chunk": 5}})


@pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")
def test_a_host_spreads_its_shards_and_says_so_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(drawing, "find_drawing", lambda python="": TWO_GPUS)
    notices: list[str] = []
    errors: list[Exception] = []
    host = HostSupervisor(mix(), capacity=4, logs=tmp_path, notify=notices.append, fail=errors.append)
    assert [shard.device for shard in host.plane.shards] == ["egl:1", "egl:0", "egl:1", "egl:1"]
    assert notices == ["drawing: EGL on cuda:0, cuda:1 (NVIDIA H100, EGL devices 1, 0)"]
    elsewhere = HostSupervisor(mix(), capacity=4, logs=tmp_path, notify=notices.append, fail=errors.append, draw_on=["cuda:1"])
    assert [shard.device for shard in elsewhere.plane.shards] == ["egl:0"] * 4


# Real drivers and real frames from here on.


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process was ended by signal 11"),
        ("import time; time.sleep(100)", "there was no answer within 3 s"),
        ("raise ImportError('no ctypes')", "ImportError: no ctypes"),
    ],
)
def test_a_driver_that_crashes_or_hangs_harms_only_the_process_that_asked_it(program: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "broken.py"
    file.write_text(f"""print('{{"osmesa": true}}', flush=True)\n{program}""")
    monkeypatch.setattr("rlvla3.simulators.egl.__file__", str(file))
    monkeypatch.setattr(drawing, "PATIENCE_S", 3 if "sleep" in program else 30)
    assert drawing._look() == Devices([], [], f"the drivers were asked for their devices, and {problem}", osmesa=True)


@needs_mujoco
def test_trials_draw_real_frames():
    if not (software := [device.number for device in drawing._look().egl if device.software]):
        pytest.skip("EGL has no device here that draws in software (Debian's package libegl-mesa0)")
    drawn, missing = drawing._try_all([software[0], 9])
    assert drawn.error == "" and drawing._failed(drawn), "it draws, in software"
    assert missing.drawn_by == "" and "MUJOCO_EGL_DEVICE_ID" in missing.error and drawing._failed(missing)


def draw_where_this_host_can(device: str) -> tuple[str, str, list[str]]:
    """What draws in this process, as a simulator prepares it."""
    from rlvla3.simulators.graphics import prepare_process

    prepare_process("a test", device)
    from rlvla3.simulators.drawing_trial import draw_ball

    drawn_by = draw_ball()
    loaded = {line.rsplit("/", 1)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    return os.environ["MUJOCO_GL"], drawn_by, [name for name in ("libOSMesa.so", "libEGL.so") if any(name in library for library in loaded)]


@needs_mujoco
@needs_osmesa
def test_without_a_gpu_osmesa_draws_and_nothing_else_is_loaded():
    host = in_fresh_process(find_drawing)
    if host.places != ("cpu",):
        pytest.skip("a GPU draws here")
    assert said(host).startswith("drawing: OSMesa on the CPU, because ")
    library, drawn_by, loaded = in_fresh_process(draw_where_this_host_can, "")
    assert (library, "llvmpipe" in drawn_by, loaded) == ("osmesa", True, ["libOSMesa.so"])


@needs_mujoco
@needs_osmesa
def test_a_recipe_that_names_the_cpu_draws_there():
    assert in_fresh_process(draw_where_this_host_can, "cpu")[0] == "osmesa"


@needs_mujoco
def test_a_device_of_egl_draws_if_it_is_named():
    if not (software := [device.number for device in drawing._look().egl if device.software]):
        pytest.skip("EGL has no device here that draws in software (Debian's package libegl-mesa0)")
    library, _, loaded = in_fresh_process(draw_where_this_host_can, f"egl:{software[0]}")
    assert (library, "libEGL.so" in loaded, "libOSMesa.so" in loaded) == ("egl", True, False)


@pytest.mark.gpu
@needs_mujoco
def test_every_gpu_that_draws_is_used_without_being_told():
    found = drawing._look()
    if not found.cuda:
        pytest.skip("needs a CUDA device")
    host = find_drawing()
    if host.places == ("cpu",):
        pytest.skip(f"no GPU draws here: {host.because}")
    assert all(place.startswith("egl:") for place in host.places)
    assert list(host.cuda.values()) == list(host.places)
    for number in host.cuda:
        library, drawn_by, _ = in_fresh_process(draw_where_this_host_can, f"cuda:{number}")
        assert library == "egl" and not drawing._failed(Trial(drawn_by)), drawn_by
