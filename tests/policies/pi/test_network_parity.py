"""pi0 and pi0.5 against lerobot 0.6.1 and openpi's PyTorch code, with the same weights, inputs and noise (scripts/references/pi_{lerobot,openpi}.py).

The reference has a masked camera, padded prompts and heads that share keys and values.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from rlvla3.checkpoints.pi_names import TIED, UNUSED
from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.options import PiModel, Variant
from rlvla3.policies.vla.network import Inputs
from tests.support.named_weights import named_weights
from tests.support.pi_references import STEPS, inputs
from tests.support.repository import ROOT

LIBRARIES = ("lerobot", "openpi")
VARIANTS: tuple[Variant, ...] = ("pi0", "pi05")


def reference(library: str, variant: Variant) -> tuple[Tensor, dict[str, str]]:
    with safe_open(ROOT / "tests/references/pi" / f"{library}-{variant}.safetensors", "pt") as file:
        return file.get_tensor("actions"), file.metadata()


def network_of(metadata: dict[str, str]) -> Pi:
    network = Pi(PiModel.model_validate_json(metadata["sizes"])).eval()
    network.load_state_dict(named_weights(network.state_dict()))
    return network


def times_of(library: str) -> list[Tensor]:
    """The times of the denoising steps. openpi adds -1/K in float32 again and again, and the shortest period of the time's encoding shows its rounding."""
    if library == "lerobot":
        return [torch.tensor(1 - step / STEPS) for step in range(STEPS)]
    times = [torch.tensor(1.0)]
    for _ in range(STEPS - 1):
        times.append(times[-1] - torch.tensor(1 / STEPS))
    return times


@torch.no_grad()
def sampled(network: Pi, times: list[Tensor]) -> Tensor:
    given = inputs()
    x = given.pop("noise")
    prefix = network.encode(Inputs(**given))
    for time in times:
        x = x - network.decode(prefix, x[:, None], time.view(1, 1))[0][:, 0] / STEPS
    return x


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_sampled_actions_equal_the_authors(library: str, variant: Variant) -> None:
    actions, metadata = reference(library, variant)
    torch.testing.assert_close(sampled(network_of(metadata), times_of(library)), actions, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_exact_times_openpi_differs_by_the_rounding_of_its_times_alone(variant: Variant) -> None:
    actions, metadata = reference("openpi", variant)
    torch.testing.assert_close(sampled(network_of(metadata), times_of("lerobot")), actions, rtol=0, atol=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_parameters_have_the_authors_names(library: str, variant: Variant) -> None:
    _, metadata = reference(library, variant)
    assert set(network_of(metadata).state_dict()) == set(json.loads(metadata["names"])) - set(TIED) - set(UNUSED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_at_the_published_size_only_the_language_heads_are_left_out(variant: Variant) -> None:
    """lerobot's class counts PaliGemma's language head, which is tied to the embedding, and the expert's, which nothing uses."""
    _, metadata = reference("lerobot", variant)
    with torch.device("meta"):
        network = Pi(PiModel.published(variant))
    model = network.model
    heads = model.vocabulary * (model.language.width + model.expert.width)
    ours = sum(parameter.numel() for parameter in network.parameters())
    assert ours == int(metadata["parameters"]) - heads == {"pi0": 3_238_048_528, "pi05": 3_353_433_872}[variant]
