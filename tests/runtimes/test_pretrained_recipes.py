"""Whole runs of recipes of recipes/pretrained/ at tiny size: as RL alone, and from demonstrations to RL."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from rlvla3.checkpoints.checkpoint import read_checkpoint
from tests.support.command_line import rlvla3_process
from tests.support.demonstration_files import Arm, write_libero
from tests.support.maniskill_assets import made_up_bridge
from tests.support.repository import ROOT
from tests.support.runs import Run

pytestmark = pytest.mark.slow

NO_EVALUATION = ("evaluation.before=false", "evaluation.after=false")
SMALL = ("policy.size=tiny", "training.checkpoint_every=1", "training.keep_checkpoints=9", "simulator.shards=2", *NO_EVALUATION)
BOWL = "libero_goal/put_the_bowl_on_the_plate"
EXPERT = ("expert", "action_in_proj", "action_out_proj", "action_time_mlp", "time_mlp", "state_proj")
"""What the names of the weights of pi0's and SmolVLA's action expert contain."""


def run(folder: Path, name: str, *overrides: str) -> Run:
    recipe = yaml.safe_load((ROOT / "recipes" / "pretrained" / f"{name}.yaml").read_text())
    return Run(folder, recipe, None, *SMALL, *overrides).finished()


def changed(ran: Run, version: int) -> set[str]:
    """The weights that update `version` changed."""
    before, after = ran.weights(version - 1), ran.weights(version)
    return {name for name in after if after[name] != before[name]}


@pytest.mark.skipif(find_spec("metaworld") is None, reason="metaworld is not installed")
def test_pi_rl_trains_the_expert_and_the_critic_alone_on_metaworld(tmp_path: Path) -> None:
    rewarded = ("simulator.max_steps=20", "simulator.options.reward=dense")  # a random policy has no success in a few episodes
    ran = run(tmp_path, "pi_rl_metaworld_pi0", "training.updates=2", "training.batch=4", "training.steps=2", *rewarded)
    first, second = (update["learner"] for update in ran.records("update"))
    assert first["optimizer_steps"] == 0 and first["value_loss"] > 0, "the first update trains the critic alone"
    assert second["optimizer_steps"] == 8 and second["gradient_norm"] > 0
    trained = changed(ran, 2)
    assert any(name.startswith("network.") for name in trained)
    assert all(name.startswith("critic.") or any(part in name for part in EXPERT) for name in trained)


@pytest.mark.skipif(find_spec("mani_skill") is None, reason="mani_skill is not installed")
def test_rl_vla3_trains_adapters_of_openvla_oft_on_maniskill(tmp_path: Path) -> None:
    assets = made_up_bridge(tmp_path / "assets")
    still = "simulator.check_frames=false"  # the made-up arm cannot move
    small = ("training.updates=2", "training.batch=4", "training.steps=2", "simulator.max_steps=16", still)
    ran = run(tmp_path, "rl_vla3_f_maniskill_openvla_oft", *small, f"simulator.options.assets={assets}", "simulator.shards=1")
    assert len(ran.records("update")) == 2
    trained = changed(ran, 2)  # without a reward, by weight decay
    assert any(".lora_A." in name for name in trained)
    assert all(name.startswith("critic.") or ".lora_" in name for name in trained)


def test_smolvla_goes_from_demonstrations_to_rl_to_lerobot(tmp_path: Path) -> None:
    """The simulator is a stand-in with LIBERO's cameras, state and actions. The demonstrations are laid out as LIBERO's."""
    demonstrations = tmp_path / f"{BOWL}_demo.hdf5"
    write_libero(demonstrations, {0: 16, 1: 15})
    simulator = (f"simulator.name={Arm.__module__}:Arm", f"simulator.tasks=[{BOWL}]", "simulator.options.image_size=64", "simulator.max_steps=20")
    cloning = (f"clone.files=[{demonstrations}]", "clone.demonstrations=2", "clone.steps=20", "clone.batch=8")
    ran = run(tmp_path, "libero_smolvla", *simulator, *cloning, "training.updates=2", "training.batch=4", "training.steps=2")
    losses = [record["loss"] for record in ran.records("clone")]
    assert losses and all(map(math.isfinite, losses))
    processing = yaml.safe_load((ran.folder / "checkpoints" / "000002" / "policy" / "config.json").read_text())["options"]["processing"]
    for name, size in {"state": 8, "actions": 7}.items():
        fitted = processing[name]["normalisation"]
        assert fitted["method"] == "mean_std" and len(fitted["mean"]) == size, "cloning computes the statistics that the recipe leaves out"
        assert len(set(fitted["mean"])) == size
    assert [update["update"] for update in ran.records("update")] == [1, 2]
    assert any(name.startswith("network.") for name in changed(ran, 2))
    exported = rlvla3_process("export", ran.folder, tmp_path / "exported", "--layout", "lerobot")
    assert exported.returncode == 0, exported.stderr
    checkpoint = read_checkpoint(tmp_path / "exported")
    assert (checkpoint.layout, checkpoint.family) == ("lerobot", "smolvla")
    assert checkpoint.options["processing"]["actions"]["normalisation"]["mean"] == pytest.approx(processing["actions"]["normalisation"]["mean"])
