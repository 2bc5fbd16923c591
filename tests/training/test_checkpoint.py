"""Checkpoints: what comes back, and what is said of those that cannot."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from rlvla3.observability.accounts import Accounts
from rlvla3.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, take_snapshot
from rlvla3.training.learner import Learner
from tests.support.learners import make_learner, run_update, snapshot, unchanged
from tests.support.tiny import TinyPolicy, tiny_recipe

RECIPE = tiny_recipe(algorithm={"reference": {"weight": 0.3}}, training={"critic": {"epochs": 1}})


@pytest.fixture
def learner() -> Learner:
    learner = make_learner(RECIPE)
    run_update(learner)
    return learner


@pytest.fixture
def folder(learner, tmp_path):
    save_checkpoint(tmp_path, "tests.support.tiny:TinyPolicy", learner, version=3)
    return tmp_path


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(learner, folder):
    resumed = make_learner(RECIPE, learner.rollouts, normalised=False, policy=TinyPolicy(seed=9))
    assert load_checkpoint(folder, resumed.policy, resumed) == 3
    assert unchanged(resumed.policy.parameters(), snapshot(learner.policy.parameters()))
    measured = run_update(learner, 3)  # the mismatch of this update is measured with the weights before it, and those are in no checkpoint
    assert run_update(resumed, 3) == {name: value for name, value in measured.items() if not name.startswith("sampler_mismatch")}
    assert unchanged(resumed.policy.parameters(), snapshot(learner.policy.parameters()))


def test_a_snapshot_does_not_change_with_training(learner):
    snapshot = take_snapshot(learner, Accounts(1))
    before = copy.deepcopy(snapshot)
    run_update(learner, 1)
    assert str(snapshot) == str(before)


def refusal(folder, learner) -> str:
    before = snapshot(learner.policy.parameters())
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder, learner.policy, learner)
    assert unchanged(learner.policy.parameters(), before)
    return str(error.value)


def test_a_folder_without_a_trainer_is_named(learner, tmp_path):
    assert f"no trainer.pt in {tmp_path}" in refusal(tmp_path, learner)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * len(data)])
def test_a_damaged_file_is_named_with_the_way_out(learner, folder, damage):
    path = folder / "trainer.pt"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(folder, learner)
    assert str(path) in message and "damaged" in message and f"policy.checkpoint={folder / 'policy'}" in message


def test_a_foreign_file_is_refused(learner, folder):
    torch.save({"weights": torch.zeros(3)}, folder / "trainer.pt")
    assert "was not written by rlvla3" in refusal(folder, learner)


def test_a_file_that_would_run_code_is_refused(learner, folder):
    torch.save({"format": 1, "version": 1, "learner": print}, folder / "trainer.pt")
    assert "damaged or not a checkpoint" in refusal(folder, learner)


def test_another_format_is_refused(learner, folder):
    saved = torch.load(folder / "trainer.pt")
    torch.save(saved | {"format": 99}, folder / "trainer.pt")
    assert "format 99" in refusal(folder, learner)


def test_damaged_weights_are_named(learner, folder):
    (folder / "policy" / "model.safetensors").write_bytes(b"not weights")
    assert str(folder / "policy") in refusal(folder, learner)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * len(data)])
@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_damaged_shards_are_named(learner, folder, name, damage):
    path = folder / "parameters" / name
    path.write_bytes(damage(path.read_bytes()))
    assert f"cannot read {folder / 'parameters'}, it is damaged" in refusal(folder, learner)


class Exploit:
    def __reduce__(self):
        return print, ("this ran",)


def test_shards_that_would_run_code_are_refused(learner, folder, capsys):
    (folder / "parameters" / ".metadata").write_bytes(pickle.dumps(Exploit()))
    assert "damaged or not a checkpoint" in refusal(folder, learner)
    assert "this ran" not in capsys.readouterr().out


def test_shards_hold_tensors_alone(learner, folder, capsys):
    """Other values would be unpickled as they are read, whatever they are."""
    save(learner.parameter_state() | {"more": Exploit()}, checkpoint_id=folder / "parameters", no_dist=True)
    capsys.readouterr()
    assert "damaged or not a checkpoint" in refusal(folder, learner)
    assert "this ran" not in capsys.readouterr().out


def test_the_state_of_another_learner_is_refused(learner, folder):
    state = learner.parameter_state()
    for wrong in (state | {"exp_avg/nobody": torch.zeros(3)}, state | {"exp_avg/mean.bias": torch.zeros(3)}):
        save(wrong, checkpoint_id=folder / "parameters", no_dist=True)
        assert "does not fit" in refusal(folder, learner)
