"""What the machine is: its GPU, software, cores and graphics."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.drawing import find_drawing

PACKAGES = ("torch", "numpy", "transformers", "mujoco", "metaworld")
MPS_FOLDER = "/tmp/nvidia-mps"
"""Where NVIDIA's multi-process service listens, unless CUDA_MPS_PIPE_DIRECTORY says otherwise."""


def measure(sheet: Sheet) -> None:
    """Look at the machine. It computes nothing."""
    sheet.write(
        gpu=_gpu(),
        software=_versions() | {"python": platform.python_version(), "cuda": torch.version.cuda},
        host={"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "memory_gib": psutil.virtual_memory().total / 2**30},
        mps=mps_listens(os.environ),
        drawing=_drawing(),
        metaworld=find_spec("metaworld") is not None,
    )


def mps_listens(environment: Mapping[str, str]) -> bool:
    """Whether the control daemon of NVIDIA's multi-process service has its pipe open on this machine."""
    control = Path(environment.get("CUDA_MPS_PIPE_DIRECTORY", MPS_FOLDER)) / "control"
    return control.exists() and (stat.S_ISFIFO(mode := control.stat().st_mode) or stat.S_ISSOCK(mode))


def _gpu() -> dict[str, Any]:
    """The first GPU. `name` is None where there is none."""
    if not torch.cuda.is_available():
        return {"name": None, "driver": None}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_gib": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
    }


def _drawing() -> str:
    """Where simulators with MuJoCo draw on this machine, and why."""
    if find_spec("mujoco") is None:
        return "mujoco is not installed"
    try:
        drawing = find_drawing()
    except SimulatorError as error:
        return str(error)
    return drawing.sentence(drawing.places, asked=False)


def _driver() -> str | None:
    """The version of NVIDIA's driver, as nvidia-smi says it. None where that cannot be asked."""
    try:
        said = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip().partition("\n")[0]


def _versions() -> dict[str, str | None]:
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The model name of the CPU. On other systems than Linux it is the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
