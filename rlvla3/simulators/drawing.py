"""Where the MuJoCo simulators of this host draw: on which GPUs (with EGL), or on the CPU (with OSMesa).

A place is written as a simulator's `devices` are: `egl:2` is EGL's device 2, `cpu` is OSMesa, and "" is whatever the environment names. A place on a GPU is
picked only if a frame was drawn there.

Invariants:
- MUJOCO_GL (or PYOPENGL_PLATFORM) of the user's environment wins over everything else;
- the drivers are loaded, and frames are tried, only in processes of their own that end within PATIENCE_S. What they find is remembered in this process; the
  supervisor of a host hands it to its shards as their devices;
- nothing is drawn on a GPU that CUDA_VISIBLE_DEVICES hides.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.interpreters.interpreter import program
from rlvla3.simulators import egl
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.description import described
from rlvla3.simulators.egl import Devices, EglDevice

PACKAGES_HELP = "on Debian or Ubuntu run `apt-get install libosmesa6 libegl1 libgl1`"
PATIENCE_S = 30.0
"""How long the drivers may take to answer, and then to draw. The first use of a GPU whose driver was not loaded takes seconds."""

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")
"""Parts of the names of what draws on the CPU."""

ON_CPU = "cpu"


class Trial(NamedTuple):
    """A frame that was tried. drawn_by: the name of what drew it. error: why there was none ("": it was drawn)."""

    drawn_by: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where this host can draw.

    places: where shards draw in turn if the recipe does not say. cuda: the place of each CUDA device that can draw. names: what draws at a place, for people.
    osmesa: whether OSMesa is there. because: why no GPU draws ("": some do). refused: for a CUDA number, why it cannot draw.
    """

    places: tuple[str, ...]
    cuda: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    osmesa: bool = True
    because: str = ""
    refused: Mapping[int, str] = field(default_factory=dict)

    def place(self, device: str) -> str:
        """The place of a device of a recipe: cpu, cuda, cuda:N or egl:N. Raises RecipeError if it cannot draw."""
        if is_place(device):
            if device == ON_CPU and not self.osmesa:
                raise RecipeError(f"simulator.devices names cpu, where OSMesa draws, and the library libOSMesa is missing: {PACKAGES_HELP}")
            return device
        kind, _, written = device.partition(":")
        if kind != "cuda" or not (written.isdecimal() or device == "cuda"):
            raise RecipeError(
                f"simulator.devices names {device}, but MuJoCo draws only on devices such as cuda:0, egl:0 or cpu: name these, or leave simulator.devices out"
            )
        number = int(written or 0)
        if number not in self.cuda:
            why = self.refused.get(number, f"CUDA has {len({*self.cuda, *self.refused})} devices here")
            raise RecipeError(f"simulator.devices names {device}, which cannot draw, because {why}: leave simulator.devices out, or set it to [cpu]")
        return self.cuda[number]

    def sentence(self, places: Sequence[str], asked: bool) -> str:
        """What the user is told of `places`. asked: whether the recipe names them."""
        gpus = [place for place in dict.fromkeys(places) if place != ON_CPU]
        if not gpus:
            return "drawing: OSMesa on the CPU, " + ("as simulator.devices says" if asked else f"because {self.because}")
        numbers = {place: f"cuda:{number}" for number, place in self.cuda.items()}
        kinds = dict.fromkeys(self.names[place] for place in gpus if place in self.names)
        devices = f"EGL device{'s' if len(gpus) > 1 else ''} {', '.join(place.removeprefix('egl:') for place in gpus)}"
        said = f"drawing: EGL on {', '.join(numbers.get(place, place) for place in gpus)} ({', '.join([*kinds, devices])})"
        if ON_CPU in places:
            said += ", and OSMesa on the CPU"
        if asked:
            return said
        refused = [f"cuda:{number} cannot draw ({why})" for number, why in self.refused.items() if self.cuda]
        return ", because ".join(filter(None, (said, self.because))) + "".join(f"; {one}" for one in refused)


def is_place(device: str) -> bool:
    """Whether it says by itself where to draw: cpu or egl:N."""
    kind, _, number = device.partition(":")
    return device == ON_CPU or (kind == "egl" and number.isdecimal())


def named_by_user(variables: Mapping[str, str], asked: Sequence[str] = ()) -> str:
    """The variable of the environment that decides how MuJoCo draws, such as MUJOCO_GL=osmesa. "" if that is left to this program.

    With MUJOCO_GL=egl it is left to this program which of EGL's devices draws, unless MUJOCO_EGL_DEVICE_ID says so, and `asked` (the recipe) does not.
    """
    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        if value := variables.get(variable, ""):
            return "" if value.lower() == "egl" and (asked or not variables.get("MUJOCO_EGL_DEVICE_ID")) else f"{variable}={value}"
    return ""


def places_of(asked: Sequence[str], within: Sequence[str] = (), python: str = "") -> tuple[list[str], str]:
    """Where the shards of a simulator draw in turn, and the sentence that tells the user.

    asked: `simulator.devices`. within: where the recipe does not say, the GPUs that may be used, such as cuda:0 (empty, or none of them can draw: all).
    python: `simulator.python`. Raises RecipeError if a device of the recipe cannot draw, and SimulatorError if nothing can.
    """
    if given := named_by_user(os.environ, asked):
        return [""], f"drawing: as {given} says" + (", so simulator.devices is not used for it" if asked else "")
    drawing = find_drawing(python)
    allowed = [drawing.cuda[number] for number in drawing.cuda if f"cuda:{number}" in within]
    places = [drawing.place(device) for device in asked] or allowed or list(drawing.places)
    wants_egl = os.environ.get("MUJOCO_GL", os.environ.get("PYOPENGL_PLATFORM", "")).lower() == "egl"
    if wants_egl and ON_CPU in places:
        return [""], f"drawing: EGL, as the environment says, although {drawing.because or 'simulator.devices names the CPU'}"
    return places, drawing.sentence(places, bool(asked))


def place_simulator(config: SimulatorConfig, within: Sequence[str] = ()) -> tuple[SimulatorConfig, str]:
    """The simulator with the places where its shards draw in turn as its devices, and the sentence that tells the user. See places_of.

    A simulator that does not draw with MuJoCo stays as it is, and there is nothing to tell ("").
    """
    if not described(config).draws_with_mujoco:
        return config, ""
    places, sentence = places_of(config.devices, within, config.python)
    return config.model_copy(update={"devices": places}), sentence


def place_here(device: str) -> str:
    """Where this process draws. device: of the simulator; "" for none. What the supervisor of a host has picked is taken as it is."""
    if is_place(device):
        return "" if named_by_user(os.environ, [device]) else device
    return places_of([device] if device else [])[0][0]


@functools.cache
def find_drawing(python: str = "") -> Drawing:
    """Where this host can draw, with the MuJoCo of the interpreter `python` ("": of this one). Raises SimulatorError.

    Takes a tenth of a second where no GPU is found, and longer where frames are tried.
    """
    return choose(_look(), os.environ, lambda numbers: _try_all(numbers, python))


def choose(found: Devices, variables: Mapping[str, str], try_all: Callable[[Sequence[int]], Sequence[Trial]]) -> Drawing:
    """The decision. found: what the drivers say. variables: the environment. try_all: tries a frame on each of these devices of EGL.

    GPUs come first, then OSMesa, and last a device of EGL that draws in software. Raises SimulatorError if none of them can draw.
    """
    same = egl.match(found.egl, found.cuda)
    gpus = [device.number for device in [*same.values()] or _without_cuda(found.egl, hidden="CUDA_VISIBLE_DEVICES" in variables)]
    trials = dict(zip(gpus, try_all(gpus), strict=True))
    errors = {gpu: trial.error or f"{trial.drawn_by} draws there, which is software" for gpu, trial in trials.items() if _failed(trial)}
    drawing = [gpu for gpu in gpus if gpu not in errors]
    cuda = {number: f"egl:{device.number}" for number, device in same.items() if device.number in drawing}
    why_not = "none of EGL's devices is known to be the same" if same else _why_no_gpu(found, variables)
    host = Drawing(
        places=tuple(f"egl:{gpu}" for gpu in drawing),
        cuda=cuda,
        names={f"egl:{gpu}": trials[gpu].drawn_by for gpu in drawing} | {cuda[device.number]: device.name for device in found.cuda if device.number in cuda},
        osmesa=found.osmesa,
        refused={device.number: errors[same[device.number].number] if device.number in same else why_not for device in found.cuda if device.number not in cuda},
    )
    if drawing:
        return host
    because = f"EGL cannot draw on its device {gpus[0]}: {errors[gpus[0]]}" if gpus else why_not
    if found.osmesa:
        return replace(host, places=(ON_CPU,), because=because)
    software = [device.number for device in found.egl if device.software]
    for number, trial in zip(software, try_all(software), strict=True):
        if not trial.error:
            return replace(host, places=(f"egl:{number}",), names={f"egl:{number}": trial.drawn_by}, because=f"{because}, and OSMesa is missing")
    raise SimulatorError(f"frames cannot be drawn on this host. EGL: {because}. OSMesa: the library libOSMesa is missing. Way out: {PACKAGES_HELP}")


def _failed(trial: Trial) -> bool:
    return bool(trial.error) or any(name in trial.drawn_by.lower() for name in SOFTWARE)


def _without_cuda(devices: Sequence[EglDevice], hidden: bool) -> list[EglDevice]:
    """The GPUs where none is known by a CUDA number. hidden: whether CUDA_VISIBLE_DEVICES may hide those of NVIDIA."""
    nvidia = [device for device in devices if device.nvidia]
    taken = {device.pci for device in nvidia if device.pci}  # Mesa lists them once more
    return ([] if hidden else nvidia) + [device for device in devices if not (device.nvidia or device.software or device.pci in taken)]


def _why_no_gpu(found: Devices, variables: Mapping[str, str]) -> str:
    """Why no GPU was tried."""
    if found.problem:
        return found.problem
    if any(device.nvidia for device in found.egl):
        shown = variables.get("CUDA_VISIBLE_DEVICES")
        if not shown:
            return "CUDA_VISIBLE_DEVICES hides the GPUs"
        return f"no device of EGL could be recognised as a GPU that CUDA_VISIBLE_DEVICES={shown} shows (write egl:0 in simulator.devices to use EGL's number)"
    if not found.cuda:
        return "EGL has no GPU here"
    granted = variables.get("NVIDIA_DRIVER_CAPABILITIES", "")
    if granted and not {"all", "graphics"} & set(granted.split(",")):
        return f"this container may only compute with its GPU: start it with NVIDIA_DRIVER_CAPABILITIES=all, where it is {granted} now"
    if not found.nvidia_egl:
        return "the drawing part of NVIDIA's driver (libEGL_nvidia.so.0) is missing: a container gets it with NVIDIA_DRIVER_CAPABILITIES=all"
    return "EGL does not know of NVIDIA's driver: a file such as /usr/share/glvnd/egl_vendor.d/10_nvidia.json is missing"


def _look() -> Devices:
    """What the drivers say."""
    process = _start([sys.executable, "-I", "-S", egl.__file__], os.environ)
    printed, ended = _finish(process, time.monotonic() + PATIENCE_S)
    return egl.read_answer(printed, ended)


def _try_all(numbers: Sequence[int], python: str = "") -> list[Trial]:
    """Try a frame on each of these devices of EGL, all at once."""
    command, variables = program(python, "rlvla3.simulators.drawing_trial:main")
    processes = [_start(command, {**variables, **variables_of(f"egl:{number}"), "LP_NUM_THREADS": "0"}) for number in numbers]
    end = time.monotonic() + PATIENCE_S
    trials = []
    for process in processes:
        printed, ended = _finish(process, end)
        trials.append(Trial(error=ended) if process.returncode != 0 else Trial(printed.strip()))
    return trials


def variables_of(place: str) -> dict[str, str]:
    """The variables that mujoco reads when it is imported and when it makes its context. place: cpu or egl:N."""
    if place == ON_CPU:
        return {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}
    return {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl", "MUJOCO_EGL_DEVICE_ID": place.removeprefix("egl:")}


def _start(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=variables)


def _finish(process: subprocess.Popen[str], end: float) -> tuple[str, str]:
    """What a process printed, and how it ended. One that has not ended at `end` is killed; it is not waited for if it hangs in the kernel."""
    try:
        printed, errors = process.communicate(timeout=max(end - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        printed = ""
        with suppress(subprocess.TimeoutExpired):
            printed, _ = process.communicate(timeout=1)
        return printed, f"there was no answer within {PATIENCE_S:g} s"
    if process.returncode < 0:
        return printed, f"the process was ended by signal {-process.returncode}"
    last = [line for line in errors.splitlines() if line.strip()]
    return printed, last[-1] if last else f"the process ended with exit code {process.returncode}"
