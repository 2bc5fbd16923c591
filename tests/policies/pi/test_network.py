"""What the networks of pi0 and pi0.5 promise: batches, points and padding do not matter; gradients reach what they should; bf16 and the meta device work."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from rlvla3.errors import RecipeError
from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.options import PiModel, Variant
from rlvla3.policies.vla.network import Inputs
from rlvla3.policies.vla.options import PARTS
from tests.support.named_weights import named_weights

VARIANTS: tuple[Variant, ...] = ("pi0", "pi05")


def network_of(variant: Variant) -> Pi:
    network = Pi(PiModel.tiny(variant))
    network.load_state_dict(named_weights(network.state_dict()))
    return network


def some_inputs(batch: int = 3) -> Inputs:
    """Two cameras, of which the first observation lacks one, and prompts of different lengths."""
    generator = torch.Generator().manual_seed(0)
    image_mask = torch.ones(batch, 2, dtype=torch.bool)
    image_mask[0, 1] = False
    return Inputs(
        images=torch.rand(batch, 2, 3, 56, 56, generator=generator) * 2 - 1,
        image_mask=image_mask,
        tokens=torch.randint(0, 1024, (batch, 10), generator=generator),
        token_mask=torch.arange(10)[None] < torch.tensor([10, 4, 7])[:batch, None],
        state=torch.randn(batch, 32, generator=generator),
    )


def chunks(batch: int = 3, points: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, points, 8, 32, generator=generator), torch.rand(batch, points, generator=generator)


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def velocities(network: Pi, inputs: Inputs, points: Tensor, times: Tensor) -> Tensor:
    return network.decode(network.encode(inputs), points, times)[0]


def row(inputs: Inputs, number: int) -> Inputs:
    return Inputs(**{field.name: getattr(inputs, field.name)[number : number + 1] for field in dataclasses.fields(inputs)})


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_batch_gives_what_its_rows_give(variant: Variant) -> None:
    network, inputs, (points, times) = network_of(variant), some_inputs(), chunks()
    together = velocities(network, inputs, points, times)
    for number in range(3):
        alone = velocities(network, row(inputs, number), points[number : number + 1], times[number : number + 1])
        assert_same(alone[0], together[number])


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_points_of_an_observation_do_not_see_each_other(variant: Variant) -> None:
    network, (points, times) = network_of(variant), chunks()
    prefix = network.encode(some_inputs())
    together, features = network.decode(prefix, points, times)
    assert together.shape == (3, 4, 8, 32) and features.shape == (3, 4, 8, network.feature_width)
    for number in range(4):
        alone, _ = network.decode(prefix, points[:, number : number + 1], times[:, number : number + 1])
        assert_same(alone[:, 0], together[:, number])


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_times_may_be_shared_by_all_observations(variant: Variant) -> None:
    network, (points, _) = network_of(variant), chunks()
    prefix, times = network.encode(some_inputs()), torch.tensor([[1.0, 0.75, 0.5, 0.25]])
    shared, _ = network.decode(prefix, points, times)
    assert_same(shared, network.decode(prefix, points, times.expand(3, -1))[0])


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_what_is_masked_changes_nothing(variant: Variant) -> None:
    network, inputs, (points, times) = network_of(variant), some_inputs(), chunks()
    images, tokens = inputs.images.clone(), inputs.tokens.clone()
    images[0, 1] = 0.3
    tokens[~inputs.token_mask] = 77
    other = dataclasses.replace(inputs, images=images, tokens=tokens)
    assert_same(velocities(network, other, points, times), velocities(network, inputs, points, times))
    assert_same(network.encode(other).mean(), network.encode(inputs).mean())
    images[0, 0] = 0.3
    assert not torch.allclose(velocities(network, other, points, times)[0], velocities(network, inputs, points, times)[0], atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_more_padding_changes_nothing(variant: Variant) -> None:
    network, inputs, (points, times) = network_of(variant), some_inputs(), chunks()
    longer = dataclasses.replace(
        inputs,
        tokens=torch.cat([inputs.tokens, torch.full((3, 5), 9)], 1),
        token_mask=torch.cat([inputs.token_mask, torch.zeros(3, 5, dtype=torch.bool)], 1),
    )
    assert_same(velocities(network, longer, points, times), velocities(network, inputs, points, times))


@torch.no_grad()
def test_only_pi0_reads_the_state() -> None:
    inputs, (points, times) = some_inputs(), chunks()
    other = dataclasses.replace(inputs, state=-inputs.state)
    for variant in VARIANTS:
        network = network_of(variant)
        same = torch.equal(velocities(network, other, points, times), velocities(network, inputs, points, times))
        assert same == (variant == "pi05")


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_all_but_what_only_the_final_prefix_tokens_need(variant: Variant) -> None:
    network, inputs, (points, times) = network_of(variant), some_inputs(), chunks()
    velocities(network, inputs, points, times).square().sum().backward()
    without = {id(parameter) for parameter in network.parameters() if parameter.grad is None}
    assert without == {id(parameter) for parameter in network.unreached()}
    assert all(parameter.grad.any() for parameter in network.parameters() if parameter.grad is not None)
    network.encode(inputs).mean().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_autocast_runs_and_is_near_fp32(variant: Variant) -> None:
    network, inputs, (points, times) = network_of(variant), some_inputs(), chunks()
    exact = velocities(network, inputs, points, times)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = velocities(network, inputs, points, times)
        rounded.square().sum().backward()
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_frozen_vision_language_model_may_be_kept_in_bf16(variant: Variant) -> None:
    network, inputs, (points, times) = network_of(variant), some_inputs(), chunks()
    exact = velocities(network, inputs, points, times)
    for part in ("vision", "language"):
        for module in network.part(part):
            module.bfloat16()
    assert (velocities(network, inputs, points, times) - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parts_hold_every_parameter_once(variant: Variant) -> None:
    network = network_of(variant)
    held = [id(parameter) for part in PARTS for module in network.part(part) for parameter in module.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_network_built_on_the_meta_device_is_complete_once_initialised(variant: Variant) -> None:
    with torch.device("meta"):
        network = Pi(PiModel.tiny(variant))
    assert not list(network.buffers())
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.fill_(float("nan"))
    network.initialise(torch.Generator().manual_seed(0))
    normal = Pi(PiModel.tiny(variant))
    normal.initialise(torch.Generator().manual_seed(0))
    inputs, (points, times) = some_inputs(), chunks()
    result = velocities(network, inputs, points, times)
    assert result.isfinite().all()
    assert torch.equal(result, velocities(normal, inputs, points, times))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tiny_network_is_tiny(variant: Variant) -> None:
    assert sum(parameter.numel() for parameter in Pi(PiModel.tiny(variant)).parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("expert", {"layers": 4}, "model.language.layers=3 differs from model.expert.layers=4"),
        ("expert", {"head_size": 32}, "model.language.head_size=24 differs from model.expert.head_size=32"),
        ("expert", {"width": 63}, "model.expert.width=63 is odd"),
        ("vision", {"image": 60}, "model.vision.image=60 is no multiple of model.vision.patch=14"),
        ("vision", {"heads": 3}, "model.vision.width=64 is no multiple of model.vision.heads=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(section: str, change: dict[str, int], message: str) -> None:
    model = PiModel.tiny("pi0")
    model = model.model_copy(update={section: getattr(model, section).model_copy(update=change)})
    with pytest.raises(RecipeError, match=message):
        Pi(model)
