"""Where LIBERO's meshes and textures are, and how they are had from the hub: the wheel does not bring them.

A recipe is refused before any process starts where they are nowhere and the hub cannot be asked; they are downloaded when the first simulator is built, and by
one process while the others wait.
"""

from __future__ import annotations

import fcntl
import functools
from collections.abc import Callable
from pathlib import Path

from rlvla3.simulators.assets import find_assets
from rlvla3.simulators.libero.tasks import package_folder

VARIABLE = "RLVLA3_LIBERO_ASSETS"
CONTAINS = "scenes/libero_tabletop_base_style.xml"
HUB_DATASET = "lerobot/libero-assets"
PATIENCE_S = 5.0
"""How long the hub may take to say that it has them."""


def check_assets(given: Path | None) -> None:
    """Raises RecipeError where the assets are nowhere and cannot be downloaded."""
    _find(given, _ask_hub)


def get_assets(given: Path | None) -> Path:
    """The folder of assets, downloaded where they are nowhere. Raises RecipeError."""
    return _find(given, _download).absolute()


def _find(given: Path | None, download: Callable[[], Path]) -> Path:
    own = [package_folder() / "assets", _downloaded()]
    return find_assets("LIBERO", key="simulator.options.assets", given=given, variable=VARIABLE, own=own, contains=CONTAINS, download=download)


def _downloaded() -> Path:
    """Where LIBERO itself keeps what it downloads."""
    return Path.home() / ".cache" / "libero" / "assets"


@functools.cache
def _ask_hub() -> Path:
    """Where a download will be, once the hub has said that it has them. Raises OSError."""
    try:
        from huggingface_hub import HfApi

        HfApi().dataset_info(HUB_DATASET, timeout=PATIENCE_S)
    except Exception as error:  # offline, no such host, refused, not installed: its HTTP library has errors of its own
        raise ConnectionError(error) from error
    return _downloaded()


def _download() -> Path:
    """The assets from the hub, whole or not at all: a download that was cut short is taken up again. Raises OSError."""
    folder, partial = _downloaded(), _downloaded().with_name("assets.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name("assets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / CONTAINS).exists():
            try:
                from huggingface_hub import snapshot_download

                snapshot_download(HUB_DATASET, repo_type="dataset", local_dir=partial, etag_timeout=PATIENCE_S)
            except Exception as error:  # as in _ask_hub
                raise ConnectionError(error) from error
            partial.rename(folder)
    return folder
