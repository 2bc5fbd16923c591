"""docs/architecture.md names files, classes and functions that exist, and draws the floors that lint checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache

import pytest

from tests.support.repository import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
PATHS = sorted({code for code in re.findall(r"`([\w./]+)`", PROSE) if code.endswith((".py", "/"))})
NAMES = sorted({code for code in re.findall(r"`([A-Za-z_][\w.]*)`", PROSE) if not code.endswith(".py") and not code.startswith("engine.")})
COMMON = {"key=value", "module:Class", "slow", "gpu"}


@cache
def defined() -> frozenset[str]:
    """Every name that the package defines: modules, classes, functions and methods as Class.method."""
    names: set[str] = set()
    for file in (ROOT / "rlvla3").rglob("*.py"):
        names.add(file.stem)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names |= {node.name, *(f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef))}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
    return frozenset(names)


@pytest.mark.parametrize("path", PATHS)
def test_every_file_exists(path: str):
    assert (ROOT / "rlvla3" / path).exists() or (ROOT / path).exists(), f"{path} is in docs/architecture.md and not in the repository"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_exists(name: str):
    assert name in defined(), f"{name} is in docs/architecture.md and defined nowhere in rlvla3"


def test_the_page_names_enough_for_these_tests_to_mean_something():
    assert len(PATHS) > 40 and len(NAMES) > 30


def test_every_reference_has_a_target():
    definitions = dict(re.findall(r"^\[(`[^`]+`)\]: (\S+)$", PAGE, re.MULTILINE))
    used = set(re.findall(r"\[(`[^`]+`)\](?![:(])", PROSE))
    assert used == set(definitions)
    for link in definitions.values():
        assert (ROOT / "docs" / link).exists(), link


def test_the_floors_are_those_that_lint_checks():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    contract = [set(re.findall(r"\w+", layer)) for layer in layers]
    picture = re.search(r"```mermaid\nflowchart TD\n(.*?)```", PAGE, re.DOTALL)
    assert picture is not None
    arrows = [[set(re.findall(r"\w+", side)) for side in line.split("-->")] for line in picture[1].strip().splitlines()]
    assert [above for above, _ in arrows] + [arrows[-1][1]] == contract
    assert [below for _, below in arrows] == contract[1:]


def test_the_page_of_files_is_up_to_date():
    made = subprocess.run([sys.executable, "scripts/file_index.py"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert made == (ROOT / "docs" / "files.md").read_text(encoding="utf-8"), "docs/files.md is out of date: run `make files`"


def test_every_package_is_on_the_page():
    packages = [file.parent.name for file in (ROOT / "rlvla3").glob("*/__init__.py")]
    assert [name for name in packages if f"`{name}/`" not in PAGE] == []
