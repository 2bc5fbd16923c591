"""robosuite and LIBERO, imported as a process of many needs them. `rendering.prepare_process` comes first."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

QUIET = {"FILE_LOGGING_LEVEL": None, "CONSOLE_LOGGING_LEVEL": None, "MUJOCO_GPU_RENDERING": False}


def import_robosuite() -> None:
    """Import robosuite without its log file and its greeting.

    robosuite opens /tmp/robosuite.log as it is imported, which fails where that is another user's, and warns that it was not configured. Its settings are
    read as its parts are imported, so they are made before the package is.
    """
    if "robosuite" in sys.modules:
        return
    package = importlib.util.find_spec("robosuite")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("robosuite is not installed")
    spec = importlib.util.spec_from_file_location("robosuite.macros", Path(package.origin).with_name("macros.py"))
    assert spec is not None and spec.loader is not None
    private = ModuleType("robosuite.macros_private")  # whose settings robosuite 1.5 puts above its own
    private.__dict__.update(QUIET)
    sys.modules["robosuite.macros_private"] = private
    macros = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.__dict__.update(QUIET)
    sys.modules["robosuite.macros"] = macros
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    import robosuite  # noqa: F401


@contextmanager
def libero_configured() -> Iterator[None]:
    """LIBERO asks on standard input where to keep data sets, unless it finds a configuration as it is imported: it finds an empty one, and needs none later."""
    before = os.environ.get("LIBERO_CONFIG_PATH")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text("{}\n")
        os.environ["LIBERO_CONFIG_PATH"] = folder
        try:
            yield
        finally:
            del os.environ["LIBERO_CONFIG_PATH"]
            if before is not None:
                os.environ["LIBERO_CONFIG_PATH"] = before
