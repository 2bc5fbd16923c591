"""GR00T's network: equal to the authors' on the same weights, and what the learner relies on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlvla3.policies.groot.network import GR00T
from rlvla3.policies.groot.options import GrootModel
from rlvla3.policies.vla.network import Inputs
from tests.support.groot_references import groot_weights
from tests.support.repository import ROOT

SIZES = GrootModel.tiny()


@pytest.fixture(scope="module")
def network() -> GR00T:
    network = GR00T(SIZES).eval()
    network.load_state_dict(groot_weights(network.state_dict()))
    return network


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(ROOT / "tests/references/groot/network.safetensors")


@pytest.fixture(scope="module")
def inputs(reference: dict[str, Tensor]) -> Inputs:
    images = 2 * reference["images"].float() / 255 - 1
    return Inputs(images, reference["image_mask"], reference["tokens"], reference["token_mask"], reference["state"])


def rows_of(inputs: Inputs, rows: list[int] | slice) -> Inputs:
    return Inputs(inputs.images[rows], inputs.image_mask[rows], inputs.tokens[rows], inputs.token_mask[rows], inputs.state[rows])


def denoised(network: GR00T, inputs: Inputs, noise: Tensor, steps: int = 4) -> Tensor:
    """Actions [B, H, A] by plain denoising."""
    with torch.no_grad():
        prefix, x = network.encode(inputs), noise[:, None]
        for step in range(steps):
            x = x - network.decode(prefix, x, torch.tensor([[1 - step / steps]]))[0] / steps
    return x[:, 0]


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def test_the_prefix_is_the_authors(network, inputs, reference):
    """Each observation as if it were alone, although the prompts have different lengths and one shows a single camera."""
    with torch.no_grad():
        hidden, prefix = network.backbone(inputs), network.encode(inputs)
    real = inputs.token_mask
    assert difference(hidden[real], reference["hidden"][real]) < 1e-5
    assert difference(prefix.tokens[real], reference["prefix"][real]) < 1e-5


def test_the_actions_are_the_authors(network, inputs, reference):
    assert difference(denoised(network, inputs, reference["noise"]), reference["actions"]) < 1e-5


def test_the_authors_network_attends_to_padding(reference):
    """That is the one difference: their actions depend on the longest prompt of the batch. Where nothing is padded (row 1), they do not."""
    changes = (reference["neighbours"] - reference["actions"]).abs().amax((1, 2))
    assert changes[1] < 1e-5
    assert min(changes[[0, 2, 3]]) > 1e-3


def test_the_velocity_is_that_of_the_authors_loss(network, inputs, reference):
    """Their loss compares their velocity with action - noise, at times that run from noise to action."""
    rows = [0, 3]
    noise, actions, times = reference["noise"][rows], reference["demonstrations"][rows], reference["times"][rows, None, None]
    points = (1 - times) * noise + times * actions
    with torch.no_grad():
        velocity, _ = network.decode(network.encode(rows_of(inputs, rows)), points[:, None], 1 - times[:, 0])
    assert ((velocity[:, 0] - (noise - actions)) ** 2).mean().item() == pytest.approx(reference["loss"].item(), abs=1e-5)


def test_all_usual_numbers_of_steps_use_the_authors_buckets():
    """They take int(k / K * 1000) for step k of K. Our times 1 - k / K have rounding errors."""
    buckets = GR00T(SIZES).action_head._buckets
    for steps in range(1, 101):
        times = 1 - torch.arange(steps, dtype=torch.float32) / steps
        assert buckets(times).tolist() == [int(k / steps * 1000) for k in range(steps)]


def test_neighbours_change_nothing(network, inputs, reference):
    noise = reference["noise"]
    together = denoised(network, inputs, noise)
    for row in range(len(inputs)):
        assert difference(denoised(network, rows_of(inputs, [row]), noise[[row]]), together[[row]]) < 1e-5


def test_padding_and_absent_images_change_nothing(network, inputs, reference):
    other = replace(
        inputs,
        images=torch.where(inputs.image_mask[..., None, None, None], inputs.images, -0.5),
        tokens=torch.where(inputs.token_mask, inputs.tokens, SIZES.language.image_token - 1),
    )
    assert not torch.equal(other.images, inputs.images)
    assert not torch.equal(other.tokens, inputs.tokens)
    noise = reference["noise"]
    assert difference(denoised(network, other, noise), denoised(network, inputs, noise)) == 0


def test_padding_may_stand_on_either_side(network, inputs, reference):
    order = torch.argsort((~inputs.token_mask).byte(), dim=1, stable=True)
    right = replace(inputs, tokens=inputs.tokens.gather(1, order), token_mask=inputs.token_mask.gather(1, order))
    assert right.token_mask[:, 0].all()
    noise = reference["noise"]
    assert difference(denoised(network, right, noise), denoised(network, inputs, noise)) < 1e-5


@pytest.mark.parametrize("change", [lambda x: x.tokens.__setitem__((1, 1), 3), lambda x: x.images[1].mul_(0.9), lambda x: x.state[1].add_(0.1)])
def test_images_prompt_and_state_change_the_actions(network, inputs, reference, change: Callable[[Inputs], object]):
    other = Inputs(*(getattr(inputs, name).clone() for name in ("images", "image_mask", "tokens", "token_mask", "state")))
    change(other)
    noise = reference["noise"]
    changes = (denoised(network, other, noise) - denoised(network, inputs, noise)).abs().amax((1, 2))
    assert changes[1] > 1e-4
    assert max(changes[[0, 2, 3]]) < 1e-5


def test_an_absent_first_camera_leaves_its_place_to_the_next(network, inputs, reference):
    """Row 2 shows one image. It may be any of the cameras."""
    one = rows_of(inputs, [2])
    swapped = replace(one, images=one.images.flip(1), image_mask=one.image_mask.flip(1))
    assert swapped.image_mask.tolist() == [[False, True]]
    noise = reference["noise"][[2]]
    assert difference(denoised(network, swapped, noise), denoised(network, one, noise)) < 1e-6


def test_many_points_at_once_are_as_one_by_one(network, inputs, reference):
    points = torch.stack([reference["noise"], reference["demonstrations"], reference["noise"] / 2], 1)
    times = torch.tensor([[1.0, 0.3, 0.75]]) * torch.linspace(1, 0.5, len(inputs))[:, None]
    with torch.no_grad():
        prefix = network.encode(inputs)
        velocities, features = network.decode(prefix, points, times)
        assert features.shape == (len(inputs), 3, SIZES.horizon, SIZES.hidden)
        for index in range(3):
            velocity, feature = network.decode(prefix, points[:, [index]], times[:, [index]])
            assert difference(velocity, velocities[:, [index]]) < 1e-5
            assert difference(feature, features[:, [index]]) < 1e-5


def gradients(network: GR00T, inputs: Inputs, reference: dict[str, Tensor]) -> dict[str, Tensor | None]:
    network.zero_grad()
    velocity, _ = network.decode(network.encode(inputs), reference["noise"][:, None], torch.tensor([[0.4]]))
    velocity.square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_gradients_reach_every_parameter(network, inputs, reference):
    found = gradients(network, inputs, reference)
    assert [name for name, gradient in found.items() if gradient is None or not gradient.any()] == []


def test_gradients_reach_the_acting_robots_weights_alone(network, inputs, reference):
    weight = gradients(network, inputs, reference)["action_head.action_encoder.W2.W"]
    assert weight is not None
    assert weight.flatten(1).any(1).nonzero().flatten().tolist() == [SIZES.embodiment]


@pytest.mark.parametrize("trained", ["vision", "language", "expert"])
def test_a_part_is_trained_alone(inputs, reference, trained):
    network = GR00T(SIZES)
    network.requires_grad_(False)
    for module in network.part(trained):
        module.requires_grad_(True)
    own = {id(parameter) for module in network.part(trained) for parameter in module.parameters()}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = gradients(network, inputs, reference)
    assert {name for name, gradient in found.items() if gradient is not None} == {names[parameter] for parameter in own}


def test_the_parts_hold_every_parameter_once():
    network = GR00T(GrootModel.tiny().model_copy(update={"projection": 64}))
    parts = [id(parameter) for name in ("vision", "language", "expert") for module in network.part(name) for parameter in module.parameters()]
    assert sorted(parts) == sorted(id(parameter) for parameter in network.parameters())


def test_the_published_network_has_the_published_number_of_parameters():
    """The checkpoint has 2,724,163,520. What is not here: SigLIP's pooling head, and the output layer of the language model. DiT: as the authors print it."""
    sizes = GrootModel.published()
    with torch.device("meta"):
        network = GR00T(sizes)
    width, mlp = sizes.vision.width, sizes.vision.mlp_width
    pooling = width + 4 * width * (width + 1) + 2 * width + mlp * (width + 1) + width * (mlp + 1)
    output = sizes.language.vocabulary * sizes.language.width
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_724_163_520 - pooling - output == 2_398_284_528
    assert sum(parameter.numel() for parameter in network.action_head.model.parameters()) == 550_386_688
    assert sum(parameter.numel() for parameter in network.action_head.vl_self_attention.parameters()) == 201_433_088
    assert 500_000 < sum(parameter.numel() for parameter in GR00T(SIZES).parameters()) < 1_500_000


def test_a_network_from_the_meta_device_is_the_same(network, inputs, reference):
    with torch.device("meta"):
        built = GR00T(SIZES)
    built.to_empty(device="cpu").load_state_dict(network.state_dict())
    noise = reference["noise"]
    assert torch.equal(denoised(built, inputs, noise), denoised(network, inputs, noise))


@pytest.mark.parametrize("rounded", [[], ["vision", "language"], ["vision", "language", "expert"]])
@pytest.mark.parametrize("least", [1, 2])
def test_bfloat16_is_close(network, inputs, reference, rounded, least):
    """Passes in bfloat16, with the weights of some parts in bfloat16 too, as those of frozen parts are: all of them, or those of two dimensions and more."""
    other = GR00T(SIZES)
    other.load_state_dict(network.state_dict())
    for parameter in (parameter for name in rounded for module in other.part(name) for parameter in module.parameters()):
        if parameter.dim() >= least:
            parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        actions = denoised(other, inputs, reference["noise"])
    assert 0 < difference(actions, reference["actions"]) < 0.2


def test_random_weights_are_drawn_from_the_generator():
    one, other = GR00T(SIZES), GR00T(SIZES)
    for network in (one, other):
        network.initialise(torch.Generator().manual_seed(5))
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projection": 60}, "prefix_attention has width 64"),
        ({"embodiment": 32}, "embodiment=32 is not below embodiments=32"),
        ({"horizon": 33}, "horizon=33 needs as many rows of positions=32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GrootModel.model_validate(SIZES.model_dump() | change)
