"""How generators will act, as it is known before torch is asked, and what is refused then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.inference import choice
from rlvla3.inference.choice import expected_way, way_in_words
from rlvla3.preflight import preflight
from tests.support.runs import countdown


@pytest.fixture
def gpu(tmp_path: Path) -> Path:
    """The /dev of a machine with a GPU."""
    (tmp_path / "nvidia0").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "here", "with_gpu"),
    [
        ({}, "eager", "graphs"),
        ({"engine": {"device": "cpu"}}, "eager", "eager"),
        ({"engine": {"device": "cuda:1"}}, "graphs", "graphs"),  # a machine without it is refused elsewhere
        ({"engine": {"mode": "sync", "offload": True}}, "eager", "eager"),
        ({"policy": {"inference": "compile"}}, "compile", "compile"),
    ],
)
def test_the_way_is_known_from_the_settings_and_the_files_of_the_machine(tmp_path: Path, gpu: Path, changes: dict[str, Any], here: str, with_gpu: str):
    recipe, nothing = make_recipe(countdown(**changes)), tmp_path / "nothing"
    assert [found and found[0] for found in (expected_way(recipe, nothing), expected_way(recipe, gpu))] == [here, with_gpu]


def test_a_cluster_decides_for_itself(gpu: Path):
    recipe = make_recipe(countdown(runtime="ray", policy={"inference": "graphs"}))
    assert expected_way(recipe, gpu) is None
    assert way_in_words(recipe) == "policy.inference=graphs, and the hosts of the cluster decide"


def test_graphs_without_a_gpu_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "GPU_FILES", ("no such file",))
    with pytest.raises(RecipeError, match=r"policy\.inference=graphs needs a CUDA GPU, .* on cpu here: set policy\.inference=auto"):
        preflight(make_recipe(countdown(policy={"inference": "graphs"})))
    with pytest.raises(RecipeError, match=r"policy\.inference=compile needs weights that stay .* engine\.offload=true"):
        preflight(make_recipe(countdown(policy={"inference": "compile"}, engine={"mode": "sync", "offload": True})))


def test_the_words_for_the_user(monkeypatch: pytest.MonkeyPatch):
    recipe = make_recipe(countdown())
    monkeypatch.setattr(choice, "has_gpu", lambda _: False)
    assert way_in_words(recipe) == "on the CPU, as the policy is written (policy.inference=auto)"
    monkeypatch.setattr(choice, "has_gpu", lambda _: True)
    assert way_in_words(recipe).startswith("on a GPU, from CUDA graphs, which are recorded at the start (policy.inference=auto). A policy that")


def test_what_preflight_asks_does_not_import_torch():
    program = "import sys, rlvla3.preflight, rlvla3.inference.choice; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
