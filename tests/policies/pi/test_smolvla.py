"""SmolVLA against lerobot's code on the same random weights, and the invariants of a network."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from rlvla3.checkpoints.smolvla_names import RENAMES, UNUSED
from rlvla3.errors import RecipeError
from rlvla3.policies.flow import FlowHead
from rlvla3.policies.options import FlowOptions
from rlvla3.policies.pi.smolvla import SmolVLA, SmolVLAPrefix
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from rlvla3.policies.vla.network import Inputs
from rlvla3.policies.vla.options import PARTS
from tests.support.repository import ROOT
from tests.support.smolvla_references import CASES, STEPS, inputs, sizes, weights

REFERENCE = ROOT / "tests/references/smolvla/lerobot.safetensors"
PUBLISHED = 450_046_176
"""Parameters of lerobot's class at the published size; scripts/references/smolvla_lerobot.py prints it."""


def network_of(case: str) -> SmolVLA:
    network = SmolVLA(SmolVLAModel.model_validate(sizes(case)))
    network.load_state_dict(weights(network.state_dict()))
    return network


def given(**changes: Tensor) -> Inputs:
    made = inputs() | changes
    return Inputs(made["images"], made["image_mask"], made["tokens"], made["token_mask"], made["state"])


def rows(batch: Inputs, *chosen: int) -> Inputs:
    index = list(chosen)
    return Inputs(batch.images[index], batch.image_mask[index], batch.tokens[index], batch.token_mask[index], batch.state[index])


def sampled(network: SmolVLA, batch: Inputs, noise: Tensor, steps: int = 3) -> Tensor:
    """Denoised without exploration, by the head that policies use."""
    options = FlowOptions.model_validate({"method": "flow_sde", "denoising_steps": steps})
    head = FlowHead(options, network.horizon, network.action_size, network.feature_width)
    draws = torch.cat([noise[:, None], noise.new_zeros(len(noise), steps, *noise.shape[1:])], 1)
    return head.sample(partial(network.decode, network.encode(batch)), draws, torch.zeros(len(noise), dtype=torch.bool)).actions


def stored(name: str) -> Tensor:
    with safe_open(REFERENCE, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_it_samples_what_lerobot_samples(case: str):
    """Two cameras, one of them missing for the second observation, and padded prompts."""
    network = network_of(case)
    torch.testing.assert_close(sampled(network, given(), inputs()["noise"], STEPS), stored(f"{case}.actions"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["published", "special_tokens"])
@torch.no_grad()
def test_the_tokens_of_the_prefix_are_those_of_lerobot(case: str):
    prefix = network_of(case).encode(given())
    torch.testing.assert_close(prefix.tokens[prefix.mask], stored(f"{case}.prefix")[prefix.mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_names_are_those_of_lerobot(case: str):
    with safe_open(REFERENCE, "pt") as file:
        theirs = json.loads(file.metadata()["names"])[case]
    [(ours, prefix)] = RENAMES
    assert ours == "" and prefix == "model."
    used = [name for name in theirs if not f"{prefix}{name}".startswith(UNUSED)]
    assert sorted(network_of(case).state_dict()) == used and len(used) == len(theirs) - 1


def test_the_published_size_is_that_of_lerobot():
    with torch.device("meta"):
        network = SmolVLA(SmolVLAModel.published())
    language_head = network.vlm_with_expert.vlm.model.text_model.embed_tokens.weight.numel()
    assert sum(parameter.numel() for parameter in network.parameters()) + language_head == PUBLISHED
    assert not list(network.buffers()), "a buffer would be lost between the meta device and the real one"


def test_the_parts_hold_every_parameter_once():
    network = SmolVLA(SmolVLAModel.tiny())
    held = [parameter for part in PARTS for module in network.part(part) for parameter in module.parameters()]
    assert len(held) == len({id(parameter) for parameter in held})
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in network.parameters()}
    assert sum(parameter.numel() for parameter in held) < 1_000_000


@torch.no_grad()
def test_the_batch_size_changes_nothing():
    network, noise = network_of("published"), inputs()["noise"]
    together = sampled(network, given(), noise)
    alone = torch.cat([sampled(network, rows(given(), row), noise[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_several_points_at_once_give_what_single_calls_give():
    network = network_of("published")
    prefix, points, times = network.encode(given()), torch.randn(3, 4, 6, 32), torch.rand(3, 4)
    outputs, features = network.decode(prefix, points, times)
    assert outputs.shape == (3, 4, 6, 32) and features.shape == (3, 4, 6, 48)
    for point in range(4):
        alone, alone_features = network.decode(prefix, points[:, point : point + 1], times[:, point : point + 1])
        torch.testing.assert_close(outputs[:, point : point + 1], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(features[:, point : point + 1], alone_features, atol=1e-5, rtol=0)
    shared, _ = network.decode(prefix, points, times[:1])
    torch.testing.assert_close(shared[:1], outputs[:1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_hidden_changes_nothing():
    """The padding of prompts, its length, and the image of a camera that is not there."""
    network, noise = network_of("published"), inputs()["noise"]
    batch, expected = given(), sampled(network, given(), noise)
    other_tokens = torch.where(batch.token_mask, batch.tokens, 63 - batch.tokens)
    other_images = torch.where(batch.image_mask[..., None, None, None], batch.images, -batch.images)
    assert not torch.equal(other_tokens, batch.tokens) and not torch.equal(other_images, batch.images)
    assert torch.equal(sampled(network, replace(batch, tokens=other_tokens, images=other_images), noise), expected)
    longer = replace(
        batch,
        tokens=torch.nn.functional.pad(batch.tokens, (0, 7), value=5),
        token_mask=torch.nn.functional.pad(batch.token_mask, (0, 7), value=False),
    )
    torch.testing.assert_close(sampled(network, longer, noise), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_shown_matters():
    network, noise = network_of("published"), inputs()["noise"]
    batch = given()
    expected = sampled(network, batch, noise)
    changed = {"images": -batch.images, "tokens": 63 - batch.tokens, "state": -batch.state, "image_mask": ~batch.image_mask}
    for name, value in changed.items():
        assert (sampled(network, replace(batch, **{name: value}), noise) - expected).abs().max() > 1e-2, name


@torch.no_grad()
def test_an_action_sees_those_before_it_and_not_those_behind_it():
    network = network_of("published")
    prefix, points, times = network.encode(given()), torch.randn(3, 1, 6, 32), torch.full((1, 1), 0.5)
    plain, _ = network.decode(prefix, points, times)
    points[:, :, 3] += 1
    moved, _ = network.decode(prefix, points, times)
    difference = (moved - plain).abs().amax((0, 1, 3))
    assert (difference[:3] == 0).all() and (difference[3:] > 1e-3).all()


@pytest.mark.parametrize("case", ["published", "half_expert"])
def test_gradients_reach_all_but_what_only_the_final_prefix_tokens_need(case: str):
    network = network_of(case)
    prefix = network.encode(given())
    outputs, _ = network.decode(prefix, torch.randn(3, 2, 6, 32), torch.rand(3, 2))
    outputs.square().mean().backward(retain_graph=True)
    idle = {id(parameter) for parameter in network.parameters() if parameter.grad is None}
    assert idle == {id(parameter) for parameter in network.unreached()}
    assert all(parameter.grad.any() for parameter in network.parameters() if parameter.grad is not None)
    prefix.tokens.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.no_grad()
def test_bf16_autocast_is_near_fp32():
    network, noise = network_of("published"), inputs()["noise"]
    exact = sampled(network, given(), noise)
    with torch.autocast("cpu", torch.bfloat16):
        prefix = network.encode(given())
        rounded = sampled(network, given(), noise)
    assert prefix.keys_values[0][0].dtype == torch.bfloat16 and rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1 * exact.std()


def test_random_weights_do_not_depend_on_the_memory_they_are_built_in():
    networks = [SmolVLA(SmolVLAModel.tiny()), SmolVLA(SmolVLAModel.tiny()).to("meta").to_empty(device="cpu")]
    for network in networks:
        network.initialise(torch.Generator().manual_seed(3))
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (first["vlm_with_expert.lm_expert.norm.weight"] == 1).all()


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return tree | {key: merged(tree[key], value) if isinstance(value, dict) else value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shuffle": 3}, "model.shuffle=3 does not divide the 8 patches"),
        ({"expert": {"layers": 2}}, "model.self_attention_every=2 needs"),
        ({"expert": {"layers": 3}}, "model.expert.layers=3 does not divide"),
        ({"expert": {"heads": 4}}, "model.expert.heads=4 differs"),
        ({"expert": {"width": 49}}, "model.expert.width=49 is odd"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        SmolVLA(SmolVLAModel.model_validate(merged(SmolVLAModel.tiny().model_dump(), changes)))


def test_a_prefix_gives_the_mean_of_what_is_seen():
    prefix: SmolVLAPrefix = network_of("published").encode(given())
    assert prefix.mask.sum(1).tolist() == [8 + 7 + 1, 4 + 4 + 1, 8 + 9 + 1]
    torch.testing.assert_close(prefix.mean()[2], prefix.tokens[2].mean(0))
