"""`import rlvla3`: light, and every name of the API is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlvla3


def test_the_import_needs_nothing_slow() -> None:
    heavy = "{'torch', 'numpy', 'pydantic', 'yaml', 'rich', 'asyncio', 'multiprocessing'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, rlvla3\nassert not {heavy}, {heavy}"], check=True)


def test_recipes_are_loaded_and_refused_without_torch() -> None:
    program = """
        import sys
        sys.modules["torch"] = None
        import rlvla3
        for mistake in (lambda: rlvla3.train({"training.bach": 3}), lambda: rlvla3.train("nowhere.yaml"), lambda: rlvla3.load_policy("nowhere")):
            try:
                mistake()
            except rlvla3.RecipeError as error:
                print(error)
    """
    ran = subprocess.run([sys.executable, "-c", "if True:" + program], capture_output=True, text=True, check=True)
    for words in ("training.bach: unknown key", "no recipe at nowhere.yaml", "no policy at nowhere"):
        assert words in ran.stdout


def test_every_name_is_there_and_typed() -> None:
    """A type checker reads the imports under TYPE_CHECKING, Python the table of modules, a reader `__all__`: all three name the same."""
    assert dir(rlvla3) == sorted(rlvla3.__all__)
    for name in rlvla3.__all__:
        assert getattr(rlvla3, name) is not None
    block = next(node for node in ast.parse(Path(rlvla3.__file__).read_text()).body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == rlvla3._MODULES
    assert {*imported, "__version__"} == set(rlvla3.__all__)


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'trian': it offers .*train"):
        rlvla3.trian  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(rlvla3, "fit")
