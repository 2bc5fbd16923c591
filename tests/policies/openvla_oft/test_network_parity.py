"""OpenVLA-OFT against the authors' code and RLinf's, with the same weights and inputs (scripts/references/openvla_oft.py, openvla_oft_rlinf.py).

The authors' code takes one observation at a time, so the reference has no padding, while ours is a batch of prompts of different lengths.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from rlvla3.policies.openvla_oft.network import OpenVLAOFT
from rlvla3.policies.openvla_oft.options import Head, OpenVLAOFTModel
from rlvla3.policies.options import TokenOptions
from rlvla3.policies.tokens import TokenHead
from rlvla3.policies.vla.network import Inputs
from tests.support.openvla_references import ACTION_TOKENS, inputs, weights
from tests.support.repository import ROOT

torch.set_num_threads(1)
HEADS: tuple[Head, ...] = ("tokens", "l1")
UNUSED = (
    "vision_backbone.featurizer.blocks.2.",
    "vision_backbone.featurizer.norm.",
    "vision_backbone.fused_featurizer.blocks.2.",
    "vision_backbone.fused_featurizer.norm.",
    "vision_backbone.fused_featurizer.attn_pool.",
)


def reference(head: Head) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(ROOT / "tests/references/openvla_oft" / f"network-{head}.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def network_of(metadata: dict[str, str]) -> OpenVLAOFT:
    network = OpenVLAOFT(OpenVLAOFTModel.model_validate_json(metadata["sizes"])).eval()
    network.load_state_dict(weights(network.state_dict()))
    return network


def unnormalised(actions: Tensor, metadata: dict[str, str]) -> Tensor:
    """As the authors do it, in float64: from [-1, 1] to the quantiles, but for the gripper."""
    low, high, mask = (torch.tensor(json.loads(metadata["statistics"])[name]).double() for name in ("q01", "q99", "mask"))
    return torch.where(mask.bool(), (actions.double() + 1) / 2 * (high - low + 1e-8) + low, actions.double())


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_logits_tokens_and_actions_equal_the_authors() -> None:
    expected, metadata = reference("tokens")
    network = network_of(metadata)
    prefix = network.encode(Inputs(**inputs("tokens")))
    head = TokenHead(TokenOptions(), network.horizon, network.action_size)
    sample = head.sample(lambda points, times: network.decode(prefix, points, times), torch.zeros(3, 8, 7), torch.zeros(3, dtype=torch.bool))
    logits, features = network.decode(prefix, torch.zeros(3, 1, 8, 7), torch.ones(1, 1))
    same(logits.view(3, 56, 256), expected["logits"])
    same(features[:, 0], expected["hidden"][:, ::7])
    assert torch.equal(sample.trace["tokens"].view(3, 56).long() + ACTION_TOKENS.start, expected["tokens"])
    same(unnormalised(sample.actions, metadata), expected["actions"])


@torch.no_grad()
def test_log_probs_equal_rlinfs() -> None:
    """RLinf leaves the stop token out, and pads prompts in front."""
    with safe_open(ROOT / "tests/references/openvla_oft/rlinf.safetensors", "pt") as file:
        expected, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    head = TokenHead(TokenOptions(temperature=float(metadata["temperature"])), 8, 7)
    for stop in (False, True):
        network = OpenVLAOFT(OpenVLAOFTModel.model_validate_json(metadata["sizes"]).model_copy(update={"stop_token": stop})).eval()
        network.load_state_dict(weights(network.state_dict()))
        found = head.evaluate(partial(network.decode, network.encode(Inputs(**inputs("tokens")))), {"tokens": expected["tokens"].view(3, 8, 7)})
        assert torch.allclose(found.logprob.view(3, 56), expected["logprobs"], rtol=0, atol=1e-5) == (not stop)
        if not stop:
            same(found.entropy.view(3, 56), expected["entropy"])


@torch.no_grad()
def test_regressed_actions_equal_the_authors() -> None:
    expected, metadata = reference("l1")
    network = network_of(metadata)
    prefix = network.encode(Inputs(**inputs("l1")))
    same(unnormalised(network.actions_of(prefix), metadata), expected["actions"])
    actions, features = network.decode(prefix, torch.zeros(3, 1, 8, 7), torch.ones(1, 1))
    assert torch.equal(actions[:, 0], network.actions_of(prefix))
    same(features[:, 0], expected["hidden"][:, ::7])


@pytest.mark.parametrize("head", HEADS)
def test_parameters_have_the_authors_names(head: Head) -> None:
    _, metadata = reference(head)
    unused = UNUSED if head == "tokens" else (*UNUSED, "language_model.lm_head.")
    expected = {name for name in json.loads(metadata["shapes"]) if not name.startswith(unused)}
    assert set(network_of(metadata).state_dict()) == expected


@pytest.mark.parametrize(("head", "count"), [("tokens", 7_498_156_704), ("l1", 7_534_758_567)])
def test_at_the_published_size_only_what_is_unused_is_left_out(head: Head, count: int) -> None:
    published = json.loads(reference(head)[1]["parameters"])
    with torch.device("meta"):
        network = OpenVLAOFT(OpenVLAOFTModel.published(head))
    ours = sum(parameter.numel() for parameter in network.parameters())
    assert published["all"] == 7_541_237_184
    assert ours == published["all"] - published["unused"] + (published["l1"] - published["lm_head"] if head == "l1" else 0) == count
    assert not list(network.buffers())
