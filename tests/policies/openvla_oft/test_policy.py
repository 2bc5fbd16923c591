"""OpenVLA-OFT as a policy that starts from a checkpoint: acting, training, and writing the checkpoint again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.checkpoints.checkpoint import write_checkpoint
from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.policies.registry import make_policy, policy_options, read_checkpoint_config
from rlvla3.policies.vla.adapters import merged_tensors
from rlvla3.types import ActionSpace, Spaces
from tests.support.openvla_checkpoints import stored_tensors, write_folder
from tests.support.vla import noise_of, observe

torch.set_num_threads(1)
SPACES = Spaces({"agentview": (64, 64, 3), "robot0_eye_in_hand": (64, 64, 3)}, 8, ActionSpace("continuous", 7), 220, ("Open the drawer",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("openvla") / "checkpoint", "tokens", rounded=None)


def started(folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    return make_policy(PolicyConfig(name="openvla_oft", chunk=5, checkpoint=folder, options=options), SPACES).eval()


def test_evaluate_agrees_with_act_to_the_last_bit(folder: Path) -> None:
    policy, observations = started(folder, tokens={"temperature": 1.6}), observe(SPACES, 3)
    decisions = policy.act(observations, noise_of(policy, 3), torch.tensor([True, False, True]))
    evaluation = policy.evaluate(observations, decisions.actions, decisions.trace)
    assert torch.equal(evaluation.logprob, decisions.logprob)
    assert decisions.actions.shape == decisions.logprob.shape == (3, 5, 7)
    assert decisions.trace["tokens"].shape == (3, 8, 7)
    assert set(decisions.actions[..., -1].unique().tolist()) <= {-1.0, 1.0}
    evaluation.logprob.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.network.parameters())


def test_a_trained_policy_is_written_as_the_checkpoint_that_came_in(folder: Path, tmp_path: Path) -> None:
    """Trained by adapters, saved as a policy of ours, loaded, and written in OpenVLA's layout: only what was trained differs."""
    policy = started(folder, train=[], lora={"rank": 2, "parts": ["language"]})
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".layers.0.self_attn.q_proj.lora_B" in name:
                parameter.fill_(0.01)
    policy.save(tmp_path / "policy", "openvla_oft")
    saved = read_checkpoint_config(tmp_path / "policy")
    again: Any = make_policy(saved.config(tmp_path / "policy"), saved.spaces)
    write_checkpoint(tmp_path / "written", again.origin.checkpoint, merged_tensors(again.network.state_dict(), again.options.lora))
    found, expected = stored_tensors(tmp_path / "written"), stored_tensors(folder)
    assert {file: set(tensors) for file, tensors in found.items()} == {file: set(tensors) for file, tensors in expected.items()}
    changed = [name for file, tensors in expected.items() for name, tensor in tensors.items() if not torch.equal(found[file][name], tensor)]
    assert changed == ["language_model.model.layers.0.self_attn.q_proj.weight"]
    observations, explore = observe(SPACES, 2), torch.ones(2, dtype=torch.bool)
    own = policy.act(observations, noise_of(policy, 2), explore)
    other = started(tmp_path / "written").act(observations, noise_of(policy, 2), explore)
    torch.testing.assert_close(other.logprob, own.logprob, rtol=0, atol=1e-5)


def test_the_regression_head_is_refused_for_training(tmp_path: Path) -> None:
    config = PolicyConfig(name="openvla_oft", chunk=8, checkpoint=write_folder(tmp_path / "checkpoint"))
    options: Any = policy_options(config, SPACES)
    with pytest.raises(RecipeError, match="head=l1 has no log-probs, so it cannot be reinforced"):
        options.check_training()


def test_action_tokens_cannot_be_read_from_a_regression_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unexpected: .*model\.fc1\.weight"):
        started(write_folder(tmp_path / "checkpoint"), model={"head": "tokens"})
