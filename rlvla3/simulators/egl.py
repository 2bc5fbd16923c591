"""The devices of this host as EGL numbers them and as CUDA numbers them, and which of them are the same.

EGL (it makes graphics contexts without a display) and CUDA each number the devices in an order of their own, and CUDA_VISIBLE_DEVICES changes only CUDA's. So a
device of one is found among those of the other by what both say of it, in this order: its UUID (EGL_EXT_device_persistent_id, cuDeviceGetUuid), its address on
the PCI bus (EGL_EXT_device_drm and /sys/class/drm, cuDeviceGetPCIBusId), its CUDA number (EGL_NV_device_cuda).

Invariants:
- only a process of its own loads the drivers (drawing.py), because a broken driver may crash or hang it;
- run as a program, this file prints what the drivers say as JSON. It imports only what comes with Python, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

MOST_DEVICES = 10
"""mujoco asks EGL for so many devices, so a larger number cannot be named to it."""

EGL_EXTENSIONS, EGL_DRM_DEVICE_FILE, EGL_DRM_RENDER_NODE_FILE, EGL_CUDA_DEVICE, EGL_DEVICE_UUID = 0x3055, 0x3233, 0x3377, 0x323A, 0x335C
"""Numbers of the Khronos registry: what eglQueryString and eglQueryDevice*EXT are asked for."""


class EglDevice(NamedTuple):
    """A device of EGL. software: it draws on the CPU. nvidia: NVIDIA's driver has it. uuid, pci: as CudaDevice has them, "" if EGL does not say.

    cuda: its number in CUDA, as EGL says (None: it does not say)."""

    number: int
    software: bool = False
    nvidia: bool = False
    uuid: str = ""
    pci: str = ""
    cuda: int | None = None


class CudaDevice(NamedTuple):
    """A device of CUDA, by its number in this process. uuid: 32 hexadecimal digits. pci: its address on the PCI bus, such as 0000:3b:00.0."""

    number: int
    name: str = ""
    uuid: str = ""
    pci: str = ""


class Devices(NamedTuple):
    """What the drivers of this host say.

    problem: why EGL could not be asked ("": it could). osmesa: whether the library OSMesa, which draws on the CPU, can be loaded. nvidia_egl: whether the part
    of NVIDIA's driver that draws can.
    """

    egl: Sequence[EglDevice] = ()
    cuda: Sequence[CudaDevice] = ()
    problem: str = ""
    osmesa: bool = False
    nvidia_egl: bool = False


def match(egl: Sequence[EglDevice], cuda: Sequence[CudaDevice]) -> dict[int, EglDevice]:
    """For each CUDA number the device of EGL that is the same. Numbers for which none is found are missing.

    Mesa lists the GPUs of other drivers too, so one GPU may be two devices of EGL. Where NVIDIA's driver has devices, only they count.
    """
    same: tuple[Callable[[EglDevice, CudaDevice], bool], ...] = (
        lambda one, other: one.uuid != "" and one.uuid == other.uuid,
        lambda one, other: one.pci != "" and one.pci == other.pci,
        lambda one, other: one.cuda == other.number and not (one.uuid and other.uuid) and not (one.pci and other.pci),
    )
    hardware = [device for device in egl if device.nvidia] or [device for device in egl if not device.software]
    found: dict[int, EglDevice] = {}
    for are_same in same:
        for other in cuda:
            free = (one for one in hardware if one not in found.values() and are_same(one, other))
            if other.number not in found and (one := next(free, None)):
                found[other.number] = one
    return dict(sorted(found.items()))


def pci_address(written: str) -> str:
    """An address on the PCI bus in the form that Linux writes it in: 00000000:3B:00.0 becomes 0000:3b:00.0. "" for what is no such address."""
    domain, _, rest = written.strip().lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}" if rest.count(":") == 1 and "." in rest else ""
    except ValueError:
        return ""


def _load(*names: str) -> ctypes.CDLL | None:
    """The first library that can be loaded."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _cuda_devices() -> list[CudaDevice]:
    """The devices that the CUDA driver shows to this process: it minds CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER."""
    driver, count, handle = _load("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found: list[CudaDevice] = []
    for number in range(count.value):
        if driver.cuDeviceGet(ctypes.byref(handle), number):
            continue
        name, uuid, address = ctypes.create_string_buffer(100), (ctypes.c_ubyte * 16)(), ctypes.create_string_buffer(20)
        driver.cuDeviceGetName(name, len(name), handle)
        has_uuid = not driver.cuDeviceGetUuid(uuid, handle)
        has_address = not driver.cuDeviceGetPCIBusId(address, len(address), handle)
        pci = pci_address(address.value.decode()) if has_address else ""
        found.append(CudaDevice(number, name.value.decode(errors="replace"), bytes(uuid).hex() if has_uuid and any(uuid) else "", pci))
    return found


class _Egl:
    """EGL's questions about devices. Raises OSError if the library is missing or too old."""

    def __init__(self) -> None:
        library = _load("libEGL.so.1", "libEGL.so")
        if library is None:
            raise OSError("the library libEGL.so.1 is missing (Debian's package libegl1)")
        library.eglGetProcAddress.restype, library.eglGetProcAddress.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        self._library, count, handles = library, ctypes.c_int(), (ctypes.c_void_p * MOST_DEVICES)()
        self._string = self._function("eglQueryDeviceStringEXT", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
        self._number = self._function("eglQueryDeviceAttribEXT", ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._binary = self._function("eglQueryDeviceBinaryEXT", ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        devices = self._function("eglQueryDevicesEXT", ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        if not (devices and self._string and self._number):
            raise OSError("the library libEGL.so.1 is too old: it cannot list its devices")
        if not devices(MOST_DEVICES, handles, ctypes.byref(count)):
            count.value = 0  # libglvnd answers so where there is no driver at all
        self.handles = [handle or 0 for handle in handles[: count.value]]

    def _function(self, name: str, *types: Any) -> Any:
        address = self._library.eglGetProcAddress(name.encode())
        return ctypes.CFUNCTYPE(*types)(address) if address else None

    def device(self, number: int, handle: int) -> EglDevice:
        extensions = (self._string(handle, EGL_EXTENSIONS) or b"").decode().split()
        nvidia, value, uuid, size = "EGL_NV_device_cuda" in extensions, ctypes.c_ssize_t(), (ctypes.c_ubyte * 16)(), ctypes.c_int()
        has_cuda = nvidia and self._number(handle, EGL_CUDA_DEVICE, ctypes.byref(value))
        can_say_uuid = self._binary and "EGL_EXT_device_persistent_id" in extensions
        has_uuid = can_say_uuid and self._binary(handle, EGL_DEVICE_UUID, len(uuid), uuid, ctypes.byref(size))
        return EglDevice(
            number,
            software="EGL_MESA_device_software" in extensions,
            nvidia=nvidia,
            uuid=bytes(uuid).hex() if has_uuid and any(uuid) else "",
            pci=self._pci(handle, extensions),
            cuda=value.value if has_cuda else None,
        )

    def _pci(self, handle: int, extensions: Sequence[str]) -> str:
        """The address of the device whose file EGL names: /dev/dri/card1 is /sys/class/drm/card1/device, a link to .../0000:3b:00.0."""
        for extension, file in (("EGL_EXT_device_drm", EGL_DRM_DEVICE_FILE), ("EGL_EXT_device_drm_render_node", EGL_DRM_RENDER_NODE_FILE)):
            if extension in extensions and (path := self._string(handle, file)):
                link = f"/sys/class/drm/{os.path.basename(path.decode())}/device"  # noqa: PTH119  # pathlib is not worth its import here
                if address := pci_address(os.path.basename(os.path.realpath(link))):  # noqa: PTH119
                    return address
        return ""


def read_answer(printed: str, ended: str) -> Devices:
    """What the program has printed. ended: how it ended, which is the `problem` if it ended before it was done."""
    fields = {name: value for line in printed.splitlines() if line.startswith("{") for name, value in json.loads(line).items()}
    if "egl" not in fields and "problem" not in fields:
        fields["problem"] = f"the drivers were asked for their devices, and {ended}"
    fields["egl"] = [EglDevice(*device) for device in fields.get("egl", ())]
    fields["cuda"] = [CudaDevice(*device) for device in fields.get("cuda", ())]
    return Devices(**fields)


def print_answer() -> None:
    """Print the fields of Devices, each on a line."""
    osmesa = _load("libOSMesa.so", *(f"libOSMesa.so.{version}" for version in range(9, -1, -1)))  # as PyOpenGL looks for it
    nvidia = _load("libEGL_nvidia.so.0")
    for fields in {"osmesa": osmesa is not None, "nvidia_egl": nvidia is not None}, {"cuda": _cuda_devices()}, _egl_devices():
        print(json.dumps(fields), flush=True)


def _egl_devices() -> dict[str, Any]:
    try:
        egl = _Egl()
    except OSError as error:
        return {"problem": str(error)}
    return {"egl": [egl.device(number, handle) for number, handle in enumerate(egl.handles)]}


if __name__ == "__main__":
    print_answer()
    os._exit(0)  # drivers may crash when they are unloaded
