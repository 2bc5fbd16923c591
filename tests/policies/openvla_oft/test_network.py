"""What OpenVLA-OFT's network promises: batches and padding do not matter, act agrees with evaluate, gradients reach all, bf16 and the meta device work."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor

from rlvla3.errors import RecipeError
from rlvla3.policies.openvla_oft.l1 import L1Head
from rlvla3.policies.openvla_oft.network import OpenVLAOFT
from rlvla3.policies.openvla_oft.options import Head, OpenVLAOFTModel
from rlvla3.policies.options import TokenOptions
from rlvla3.policies.tokens import TokenHead
from rlvla3.policies.vla.adapters import add_adapters
from rlvla3.policies.vla.network import Inputs
from rlvla3.policies.vla.options import PARTS, LoRAOptions
from tests.support.named_weights import named_weights

torch.set_num_threads(1)
HEADS: tuple[Head, ...] = ("tokens", "l1")


def network_of(head: Head, **changed: object) -> OpenVLAOFT:
    network = OpenVLAOFT(OpenVLAOFTModel.tiny(head).model_copy(update=changed))
    network.load_state_dict(named_weights(network.state_dict()))
    return network


def some_inputs(batch: int = 3) -> Inputs:
    """Two cameras, of which the first observation lacks one, and prompts of different lengths."""
    generator = torch.Generator().manual_seed(0)
    image_mask = torch.ones(batch, 2, dtype=torch.bool)
    image_mask[0, 1] = False
    return Inputs(
        images=torch.randn(batch, 2, 6, 56, 56, generator=generator),
        image_mask=image_mask,
        tokens=torch.randint(3, 700, (batch, 10), generator=generator),
        token_mask=torch.arange(10)[None] < torch.tensor([10, 4, 7])[:batch, None],
        state=torch.randn(batch, 8, generator=generator),
    )


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def outputs(network: OpenVLAOFT, inputs: Inputs) -> Tensor:
    found, features = network.decode(network.encode(inputs), torch.zeros(len(inputs), 1, 8, 7), torch.ones(1, 1))
    assert features.shape == (len(inputs), 1, 8, network.feature_width)
    return found[:, 0]


def row(inputs: Inputs, number: int) -> Inputs:
    return Inputs(**{field.name: getattr(inputs, field.name)[number : number + 1] for field in dataclasses.fields(inputs)})


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_batch_gives_what_its_rows_give(head: Head) -> None:
    network, inputs = network_of(head), some_inputs()
    together = outputs(network, inputs)
    assert together.shape == (3, 8, 7 * 256 if head == "tokens" else 7)
    for number in range(3):
        assert_same(outputs(network, row(inputs, number))[0], together[number])


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_what_is_masked_changes_nothing(head: Head) -> None:
    network, inputs = network_of(head), some_inputs()
    images, tokens = inputs.images.clone(), inputs.tokens.clone()
    images[0, 1] = 0.3
    tokens[~inputs.token_mask] = 77
    other = dataclasses.replace(inputs, images=images, tokens=tokens)
    assert_same(outputs(network, other), outputs(network, inputs))
    assert_same(network.encode(other).mean(), network.encode(inputs).mean())
    images[0, 0] = 0.3
    assert not torch.allclose(outputs(network, other)[0], outputs(network, inputs)[0], atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_more_padding_changes_nothing(head: Head) -> None:
    network, inputs = network_of(head), some_inputs()
    longer = dataclasses.replace(
        inputs,
        tokens=torch.cat([inputs.tokens, torch.full((3, 5), 9)], 1),
        token_mask=torch.cat([inputs.token_mask, torch.zeros(3, 5, dtype=torch.bool)], 1),
    )
    assert_same(outputs(network, longer), outputs(network, inputs))


@torch.no_grad()
def test_attention_goes_in_both_directions() -> None:
    """What comes after an image in the sequence, the last word and the stop token, changes how the image is read."""
    network, inputs = network_of("tokens"), some_inputs(1)
    seen: list[Tensor] = []
    network.language_model.model.norm.register_forward_hook(lambda module, given, found: seen.append(found[:, 1]))
    outputs(network, inputs)
    tokens = inputs.tokens.clone()
    tokens[:, -1] += 1
    outputs(network, dataclasses.replace(inputs, tokens=tokens))
    without_stop = network_of("tokens", stop_token=False)
    without_stop.language_model.model.norm.register_forward_hook(lambda module, given, found: seen.append(found[:, 1]))
    outputs(without_stop, inputs)
    assert not torch.allclose(seen[0], seen[1], atol=1e-5)
    assert not torch.allclose(seen[0], seen[2], atol=1e-5)


@torch.no_grad()
def test_only_a_model_with_a_state_token_reads_the_state() -> None:
    inputs = some_inputs()
    other = dataclasses.replace(inputs, state=-inputs.state)
    for head in HEADS:
        assert torch.equal(outputs(network_of(head), other), outputs(network_of(head), inputs)) == (head == "tokens")


def test_evaluating_gives_the_log_probs_of_acting() -> None:
    network, inputs = network_of("tokens"), some_inputs()
    head = TokenHead(TokenOptions(temperature=1.6), 8, 7)
    noise = torch.randn(3, 8, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sample = head.sample(partial(network.decode, network.encode(inputs)), noise, torch.tensor([True, True, False]))
    found = head.evaluate(partial(network.decode, network.encode(inputs)), sample.trace)
    assert torch.equal(found.logprob, sample.logprob)
    assert torch.equal(found.features, sample.features)
    assert found.logprob.std() > 0.01
    found.logprob.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_the_regression_head_is_cloned_and_not_reinforced() -> None:
    network, inputs = network_of("l1"), some_inputs()
    head = L1Head(8, 7)
    model = partial(network.decode, network.encode(inputs))
    actions = torch.zeros(3, 8, 7)
    sample = head.sample(model, torch.randn(3, 8, 7), torch.ones(3, dtype=torch.bool))
    assert torch.equal(sample.actions, network.actions_of(network.encode(inputs)))
    loss = head.clone_loss(model, actions, torch.Generator())
    torch.testing.assert_close(loss, sample.actions.abs().mean())
    torch.testing.assert_close(head.clone_loss(model, actions, torch.Generator(), torch.arange(7) < 2), sample.actions[..., :2].abs().mean())
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    with pytest.raises(RecipeError, match="has no log-probs, so it cannot be reinforced"):
        head.evaluate(model, sample.trace)


@pytest.mark.parametrize("head", HEADS)
def test_bf16_autocast_runs_and_is_near_fp32(head: Head) -> None:
    network, inputs = network_of(head), some_inputs()
    exact = outputs(network, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs(network, inputs)
        rounded.square().sum().backward()
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@torch.no_grad()
def test_adapters_reach_every_part() -> None:
    network, inputs = network_of("tokens"), some_inputs()
    exact = outputs(network, inputs)
    add_adapters(network, [module for part in PARTS for module in network.part(part)], LoRAOptions(rank=2))
    assert torch.equal(outputs(network, inputs), exact)
    for name, parameter in network.named_parameters():
        if "language_model.lm_head.lora_B" in name:
            parameter.fill_(0.1)
    assert not torch.allclose(outputs(network, inputs), exact, atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_the_parts_hold_every_parameter_once(head: Head) -> None:
    network = network_of(head)
    held = [id(parameter) for part in PARTS for module in network.part(part) for parameter in module.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_network_built_on_the_meta_device_is_complete_once_initialised(head: Head) -> None:
    with torch.device("meta"):
        network = OpenVLAOFT(OpenVLAOFTModel.tiny(head))
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.fill_(float("nan"))
    network.initialise(torch.Generator().manual_seed(0))
    normal = OpenVLAOFT(OpenVLAOFTModel.tiny(head))
    normal.initialise(torch.Generator().manual_seed(0))
    result = outputs(network, some_inputs())
    assert result.isfinite().all()
    assert torch.equal(result, outputs(normal, some_inputs()))


@pytest.mark.parametrize("head", HEADS)
def test_a_tiny_network_is_tiny(head: Head) -> None:
    assert sum(parameter.numel() for parameter in OpenVLAOFT(OpenVLAOFTModel.tiny(head)).parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("dino", {"image": 60}, "no multiple of model.vision.patch=14"),
        ("siglip", {"layers": 1}, "model.siglip.layers=1, but the features are those of the last layer but one"),
        ("siglip", {"image": 70}, "model.dino has 4 x 4 patches and model.siglip 5 x 5"),
        ("siglip", {"image": 64, "patch": 16}, "model.dino.image=56 differs from model.siglip.image=64"),
        ("language", {"key_value_heads": 3}, "model.language.heads=4 is no multiple of model.language.key_value_heads=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(section: str, change: dict[str, int], message: str) -> None:
    model = OpenVLAOFTModel.tiny()
    with pytest.raises(RecipeError, match=message):
        OpenVLAOFT(model.model_copy(update={section: getattr(model, section).model_copy(update=change)}))


def test_a_vocabulary_without_room_for_actions_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model.vocabulary=300 has no room for 256 action tokens and model.filling=64"):
        OpenVLAOFT(OpenVLAOFTModel.tiny().model_copy(update={"vocabulary": 300}))
