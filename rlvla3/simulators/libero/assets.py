"""Where LIBERO's meshes and textures are, and how they are downloaded from the hub. LIBERO's wheel does not contain them.

If they are nowhere and the hub does not answer, the recipe is refused before any process starts. They are downloaded when the first simulator is built: one
process downloads them while the others wait.
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
HUB_TIMEOUT_S = 5.0
"""How long the hub may take to answer that it has the assets."""


def check_assets(given: Path | None) -> None:
    """Raise RecipeError if the assets are nowhere and cannot be downloaded."""
    _find(given, _ask_hub)


def get_assets(given: Path | None) -> Path:
    """The folder of assets. They are downloaded if they are nowhere. Raises RecipeError if that fails."""
    return _find(given, _download).absolute()


def _find(given: Path | None, download: Callable[[], Path]) -> Path:
    folders = [package_folder() / "assets", _download_folder()]
    return find_assets("LIBERO", key="simulator.options.assets", given=given, variable=VARIABLE, package_folders=folders, contains=CONTAINS, download=download)


def _download_folder() -> Path:
    """The folder in which LIBERO itself keeps its downloads."""
    return Path.home() / ".cache" / "libero" / "assets"


@functools.cache
def _ask_hub() -> Path:
    """Ask the hub whether it has the assets. Returns the folder that a download will fill. Raises OSError if the hub does not answer."""
    try:
        from huggingface_hub import HfApi

        HfApi().dataset_info(HUB_DATASET, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # offline, no such host, refused, not installed: the hub's HTTP library has error types of its own
        raise ConnectionError(error) from error
    return _download_folder()


def _download() -> Path:
    """Download the assets and return their folder. The folder appears only when the download is complete; an interrupted download is continued.

    Raises OSError.
    """
    folder, partial = _download_folder(), _download_folder().with_name("assets.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name("assets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / CONTAINS).exists():
            try:
                from huggingface_hub import snapshot_download

                snapshot_download(HUB_DATASET, repo_type="dataset", local_dir=partial, etag_timeout=HUB_TIMEOUT_S)
            except Exception as error:  # as in _ask_hub
                raise ConnectionError(error) from error
            partial.rename(folder)
    return folder
