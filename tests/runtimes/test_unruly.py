"""Whole runs whose environments and policies do to their process what they like: the run goes on, its files are where they belong, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.repository import python_path
from tests.support.runs import LIMIT_S, MARK, countdown, traces
from tests.support.thorough import thorough
from tests.support.unruly import ENDURED

DOES = [name for name in ENDURED if name != "spoil_modules"]  # which it does to itself alone


def train(folder: Path, recipe: dict[str, Any], *settings: str) -> str:
    """What `rlvla3 train recipe.yaml --run-dir run` prints in `folder`."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "rlvla3", "train", "recipe.yaml", "--run-dir", "run", *settings]
    environment = os.environ | {"PYTHONPATH": python_path(), MARK: str(os.getpid())}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.slow
def test_environments_do_as_they_like(tmp_path: Path, nothing_left: None):
    simulator = {"name": "tests.support.unruly:Unruly", "shards": 2, "options": {"kwargs": {"does": DOES}}}
    printed = train(tmp_path, countdown(simulator=simulator, evaluation={"after": True}, training={"updates": 2}))
    assert "much much" not in printed and "complains" not in printed
    assert "much much" in (tmp_path / "run/logs/shard-0.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "run"]
    assert (tmp_path / "run/checkpoints/000002/trainer.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("share", ["processes", *thorough("lanes")])
def test_a_policy_that_changes_its_folder_is_saved_where_the_run_is(tmp_path: Path, nothing_left: None, share: str):
    policy = {"name": "tests.support.unruly_policy:Wanderer", "options": {"hidden": 8}}
    recipe = countdown(policy=policy, engine={"record": True, "share": share}, training={"updates": 2})
    train(tmp_path, recipe)
    assert (tmp_path / "run/checkpoints/000002/policy/model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "run"]
    subprocess.run([sys.executable, "-m", "rlvla3", "replay", "run"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": python_path()}, check=True, timeout=LIMIT_S)


def test_traces_are_found(tmp_path: Path):
    """The fixture `nothing_left` can fail."""
    process = subprocess.Popen(["sleep", "60"], env=os.environ | {MARK: str(os.getpid())})
    try:
        assert any(str(process.pid) in trace for trace in traces(tmp_path))
    finally:
        process.kill()
        process.wait()
