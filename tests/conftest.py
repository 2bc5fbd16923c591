"""Settings of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test is about time: a slow machine is not a defect.
settings.register_profile("rlvla3", deadline=None)
settings.load_profile("rlvla3")

# LIBERO's meshes come from a hub. Where they lie in a folder beside the repository, or further up, they are used; else its tests skip.
for folder in Path(__file__).resolve().parents:
    if (folder / "shared" / "libero-assets").is_dir():
        os.environ.setdefault("RLVLA3_LIBERO_ASSETS", str(folder / "shared" / "libero-assets"))

LONGEST = ("test_runtime", "test_ray", "test_ranks", "test_replay", "test_papers", "test_parity")
"""Files that take a minute and more. They begin first, so that no worker is left with one when the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
