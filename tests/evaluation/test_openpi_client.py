"""Our evaluation by openpi's protocol finds what openpi's own client finds that asks our server, episode by episode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.libero import installed
from tests.support.libero_scripted import write_recipe
from tests.support.repository import ROOT
from tests.support.runs import LIMIT_S
from tests.support.scripts import environment


@installed
@pytest.mark.slow
@pytest.mark.timeout(900)  # three processes build LIBERO or import torch, which takes half a minute of a core
@pytest.mark.usefixtures("no_run_outlives_its_test")
def test_openpis_client_and_our_evaluation_find_the_same_in_each_episode(tmp_path: Path):
    chosen: list[str | Path] = ["--tasks", "libero_goal/8", "--episodes", "2", "--without-frames", "--out", tmp_path / "results"]
    words: list[str | Path] = [ROOT / "scripts/compare_with_openpi_client.py", write_recipe(tmp_path), *chosen, "--serve", "--turn", "none", "--trust"]
    done = subprocess.run([sys.executable, *words], env=environment(), capture_output=True, text=True, check=False, timeout=7 * LIMIT_S)
    assert "2 of 2 episodes are the same" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert "after 300 steps" not in done.stdout  # two episodes that fail at the limit would be the same whatever else differs
