"""`rlvla3 env create`, `list` and `check`, with a package that is installed from a file, and interpreters that do not fit."""

from __future__ import annotations

import json
import sysconfig
import zipfile
from pathlib import Path

import pytest

from rlvla3.cli import main
from rlvla3.interpreters import environments
from rlvla3.interpreters.environments import NOTE, Pins
from rlvla3.interpreters.interpreter import ENVIRONMENTS, NEEDED, find_interpreter

TOY = "slow_image"
"""A simulator of this package that needs little."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of environments. pip finds a package of the test, and nothing else."""
    monkeypatch.setenv(ENVIRONMENTS, str(tmp_path / "environments"))
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(environments, "PINS", {"libero": environments.PINS["libero"], TOY: Pins([["toy-simulator==1.0"]], TOY)})
    monkeypatch.setattr("rlvla3.checking.environments.PINS", environments.PINS)
    monkeypatch.setattr(environments, "SHARD", ())
    find_interpreter.cache_clear()
    return tmp_path / "environments"


def toys_package(folder: Path, version: str = "1.0") -> None:
    """A wheel. Its .pth file brings the packages of this interpreter, so that nothing is loaded from anywhere."""
    about = f"toy_simulator-{version}.dist-info"
    files = {
        "toy_simulator.pth": sysconfig.get_path("purelib") + "\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: toy-simulator\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"toy_simulator-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in files))


def interpreter(path: Path, *version: int, script: str = "") -> Path:
    """A program that answers as an interpreter of this version."""
    answer = {"version": version, "found": dict.fromkeys(NEEDED, "99.0"), "failed": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\necho '{json.dumps(answer)}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_one_is_made_checked_and_listed_and_never_overwritten(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    toys_package(folder.parent)
    assert main(["env", "create", TOY]) == 0
    assert f"{TOY}: works, simulator {TOY} can be described\nuse it with simulator.python={TOY}\n" in capsys.readouterr().out
    assert json.loads((folder / TOY / NOTE).read_text()) == {"simulator": TOY, "packages": ["toy-simulator==1.0"]}

    assert main(["env", "create", TOY]) == 2
    assert f"is there already: check it with `rlvla3 env check {TOY}`, or remove it with `rm -r {folder / TOY}` first" in capsys.readouterr().err

    assert main(["env", "list"]) == 0
    assert f"{TOY} made for {TOY}" in " ".join(capsys.readouterr().out.split())

    assert main(["env", "check", str(folder / TOY)]) == 0
    assert f"works, simulator {TOY} can be described" in capsys.readouterr().out, "a path is as good as a name"

    monkeypatch.setitem(environments.PINS, TOY, Pins([["toy-simulator==2.0", "toy-arm"]], TOY))
    assert main(["env", "check"]) == 0, "other versions are told of, and are no error where the simulator works"
    out = capsys.readouterr().out
    assert "toy-simulator is 1.0, and 2.0 was tested" in out and "toy-arm is missing, and any version was tested" in out


@pytest.mark.slow
def test_nothing_is_left_of_one_whose_packages_cannot_be_installed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toys_package(folder.parent, "0.9")
    place = folder.parent / "elsewhere"
    assert main(["env", "create", TOY, "--path", str(place)]) == 2
    said = capsys.readouterr().err
    assert (
        "pip install" in said
        and f"failed with exit code 1, and its lines above say why: when that is mended, run `rlvla3 env create {TOY} --path {place}`" in said
    )
    assert not place.exists() and not folder.exists()


def test_an_unfinished_one_is_told_from_one_that_is_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interpreter(folder / TOY / "bin/python", 3, 12, 1)
    assert main(["env", "create", TOY]) == 2
    assert f"is there already, and is no finished environment: check it with `rlvla3 env check {TOY}`, or remove it" in capsys.readouterr().err
    assert main(["env", "list"]) == 0
    assert f"unfinished, remove it with `rm -r {folder / TOY}`" in capsys.readouterr().out


def test_a_wrong_name_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "create", "libreo"]) == 2
    assert "there is no environment libreo, perhaps libero: make one of libero, slow_image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "newest", "said"),
    [
        ((3, 9, 18), None, "is Python 3.9.18, and the environment NAME needs Python 3.10 or later: name another interpreter with --python, such as python3.10"),
        (
            (3, 13, 0),
            (3, 12),
            "is Python 3.13.0, and the environment NAME needs Python 3.10 to 3.12: name another interpreter with --python, such as python3.12",
        ),
    ],
)
def test_a_python_that_has_not_these_versions_is_refused_before_anything_is_made(
    version: tuple[int, ...], newest: tuple[int, int] | None, said: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(environments.PINS, TOY, Pins([["toy-simulator==1.0"]], TOY, newest))
    python = interpreter(folder.parent / "python", *version)
    assert main(["env", "create", TOY, "--python", str(python)]) == 2
    assert f"{python} {said.replace('NAME', TOY)}" in capsys.readouterr().err and not folder.exists()


def test_one_that_hangs_does_not_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = interpreter(folder / "arm/bin/python", 3, 12, 1, script="exec sleep 600")
    assert main(["env", "check", "arm"]) == 1
    assert f"arm: does not work: simulator.python=arm ({path}) hangs: " in capsys.readouterr().out
