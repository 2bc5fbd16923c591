"""docs/settings.md says what the schema says, and every setting has a meaning."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import pairwise

from tests.support.repository import ROOT

WITHOUT = ["metaworld", "mujoco", "libero", "robosuite", "robocasa", "mani_skill", "sapien", "torch"]
"""What the page can be made without."""


def test_the_page_of_settings_is_up_to_date_and_needs_no_simulator():
    run = f"import runpy, sys; sys.modules.update(dict.fromkeys({WITHOUT})); runpy.run_path('scripts/settings_reference.py', run_name='__main__')"
    made = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    assert made.stdout == (ROOT / "docs" / "settings.md").read_text(), "docs/settings.md is out of date: run `make settings`"
    assert all(len(line) <= 120 for line in made.stdout.splitlines())


def sections() -> dict[str, ast.ClassDef]:
    """All classes of the package that extend Section, by name, whether or not their module can be imported here."""
    classes = [node for file in (ROOT / "rlvla3").rglob("*.py") for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)]
    found: dict[str, ast.ClassDef] = {}
    while new := [node for node in classes if node.name not in found and {ast.unparse(base) for base in node.bases} & {"Section", *found}]:
        found |= {node.name: node for node in new}
    return found


def test_every_setting_has_a_meaning():
    known = sections()
    assert {"Recipe", "EngineConfig", "Profile", "RoboCasaOptions", "MiniVLAOptions"} <= known.keys()
    explained: dict[str, set[str]] = {}
    for name, node in known.items():  # a class comes after those that it extends
        explained[name] = {field for base in node.bases for field in explained.get(ast.unparse(base), set())}
        fields = [(one, following) for one, following in pairwise([*node.body, ast.Pass()]) if isinstance(one, ast.AnnAssign)]
        for field, following in fields:
            key = ast.unparse(field.target)
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                explained[name].add(key)
            is_explained_there = ast.unparse(field.annotation) in known
            assert key in explained[name] or is_explained_there, f"{name}.{key} has no meaning: write a string under the field"
