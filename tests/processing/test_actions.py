"""From a model's numbers to a simulator's actions, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlvla3.processing.actions import Actions
from rlvla3.processing.normalisation import Scale
from rlvla3.processing.specification import ActionProcessing, Normalisation
from rlvla3.types import ActionSpace

BOUNDS = {"method": "bounds", "low": [-0.4, 0.1, -2.0, 0.0], "high": [0.8, 0.3, 2.0, 1.0]}
MEAN_STD = {"method": "mean_std", "mean": [0.1, -0.2, 0.3, 0.4], "std": [0.5, 2.0, 1.0, 0.1]}
USES = ["always", "scaling", "zero_range"]


@pytest.mark.parametrize("numbers", [BOUNDS, MEAN_STD])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("double", [False, True])
def test_what_is_scaled_back_is_what_was_scaled(numbers: dict[str, Any], use: str, double: bool):
    scale = Scale(Normalisation.model_validate({**numbers, "epsilon": 1e-8, "epsilon_use": use, "double": double}))
    given = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    scaled = scale.scale(given)
    assert torch.allclose(scale.scale_back(scaled), given.to(scaled), atol=1e-5)
    assert torch.equal(scaled[..., 4:].float(), given[..., 4:]), "dimensions without statistics stay"


def test_masked_dimensions_are_not_scaled_and_all_are_clipped():
    scale = Scale(Normalisation.model_validate({**BOUNDS, "mask": [True, True, True, False], "clip": True}))
    assert scale.scale(torch.tensor([0.8, 5.0, 0.0, 0.7])).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.7])
    assert torch.allclose(scale.scale_back(torch.tensor([1.0, 0.0, -1.0, 7.0])), torch.tensor([0.8, 0.2, -2.0, 7.0]))


def test_a_range_of_zero_is_replaced_as_lerobot_does():
    scale = Scale(Normalisation(method="bounds", low=[0.5], high=[0.5], epsilon=1e-8, epsilon_use="zero_range"))
    assert scale.scale(torch.tensor([0.5])).item() == -1 and scale.scale_back(torch.tensor([1.0])).item() == pytest.approx(0.5)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="low and high have 2 and 1 numbers"):
        Normalisation(method="bounds", low=[0, 1], high=[2])
    with pytest.raises(ValueError, match="mean and std have 0 and 0 numbers"):
        Normalisation(method="mean_std")
    with pytest.raises(ValueError, match="mask has 1 entries for 2"):
        Normalisation(method="bounds", low=[0, 1], high=[2, 3], mask=[True])


def test_actions_go_both_ways_with_chosen_and_relative_dimensions():
    """Meta-World's four of a model's seven, the first two of them relative to the state."""
    how = ActionProcessing.model_validate({"size": 10, "dimensions": [0, 1, 2, 6], "relative": [True, True], "normalisation": MEAN_STD})
    actions = Actions(how, ActionSpace("continuous", 4, low=-9, high=9))
    state, own = torch.tensor([[0.3, -0.6, 5.0]]), torch.tensor([[[0.2, 0.1, -0.4, 0.7]]])
    model = actions.to_model(own, state)
    expected = torch.zeros(1, 1, 10)
    expected[0, 0, [0, 1, 2, 6]] = torch.tensor([(0.2 - 0.3 - 0.1) / 0.5, (0.1 + 0.6 + 0.2) / 2, -0.7, 0.7])
    assert torch.allclose(model, expected) and torch.allclose(actions.to_simulator(model, state), own)
    assert torch.allclose(actions.to_simulator(torch.full((1, 1, 10), 1e6), state), torch.full((1, 1, 4), 9.0)), "within the bounds"


@pytest.mark.parametrize(("gripper", "model", "simulator"), [
    ("as_is", [0.3, -0.2], [0.3, -0.2]),
    ("openvla", [0.0, 0.4, 0.6, 1.0], [1.0, 1.0, -1.0, -1.0]),
    ("threshold", [0.0, 0.5, 0.6, 1.0], [-1.0, -1.0, 1.0, 1.0]),
    ("sign", [-0.7, 0.2], [-1.0, 1.0]),
])  # fmt: skip
def test_grippers(gripper: str, model: list[float], simulator: list[float]):
    how = ActionProcessing.model_validate({"size": 2, "gripper": gripper})
    actions = Actions(how, ActionSpace("continuous", 2))
    given = torch.stack([torch.zeros(len(model)), torch.tensor(model)], -1)[None]
    executed = actions.to_simulator(given, torch.zeros(1, 0))
    assert executed[0, :, 1].tolist() == pytest.approx(simulator)
    assert torch.equal(actions.to_simulator(actions.to_model(executed, torch.zeros(1, 0)), torch.zeros(1, 0)), executed)


def test_openpis_doubles_are_numpys():
    rng = np.random.default_rng(0)
    low, width, given = rng.normal(size=8), rng.uniform(1e-4, 1, 8), rng.normal(size=8).astype(np.float32)
    theirs = (given.astype(np.float64) - low) / (low + width - low + 1e-6) * 2.0 - 1.0
    scale = Scale(Normalisation(method="bounds", low=low.tolist(), high=(low + width).tolist(), epsilon=1e-6, double=True))
    assert scale.scale(torch.from_numpy(given)).numpy() == pytest.approx(theirs, rel=1e-12)
