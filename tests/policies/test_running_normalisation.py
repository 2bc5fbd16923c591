"""What a policy sees is scaled, whatever its size: statistics, and policies that were saved with and without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlvla3.policies.base import PolicyError
from rlvla3.policies.running_normalisation import FIXED, Moments, RunningNormalisation
from tests.support.scaled_states import SCALES, SIZE, actor_critic, mini_vla, states

ROWS = 400


@pytest.mark.parametrize("name", SCALES)
def test_states_of_any_scale_get_the_size_of_one(name):
    scale = RunningNormalisation(SIZE)
    for seed in range(3):
        scale.add(Moments.of_rows(states(name, ROWS, seed)))
    scaled = scale(torch.from_numpy(states(name, ROWS, seed=9)))
    assert scaled.isfinite().all() and scaled.dtype == torch.float32
    assert scaled.mean(0).abs().max() < 0.25
    deviations = torch.tensor(SCALES[name][1]) > 0
    assert (scaled.std(0)[deviations] - 1).abs().max() < 0.15 if deviations.any() else True
    assert (scaled.std(0)[~deviations] == 0).all()


def test_until_something_was_seen_nothing_changes():
    scale, state = RunningNormalisation(SIZE), torch.from_numpy(states("around 100", 7))
    assert torch.equal(scale(state), state)
    frame = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    assert torch.equal(RunningNormalisation(1, added=1.0, scale=255.0)(frame), frame.float() / 255)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.sampled_from(sorted(SCALES)))
def test_moments_of_parts_are_those_of_the_whole(counts, name):
    seen = states(name, max(sum(counts), 1))
    cuts = np.split(seen, np.cumsum(counts)[:-1]) if sum(counts) else [seen]
    joined, whole = Moments.joined(map(Moments.of_rows, filter(len, cuts))), Moments.of(seen)
    assert joined.count == whole.count
    size = np.abs(seen.astype(np.float64)).max(0)
    np.testing.assert_allclose(joined.mean, whole.mean, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(joined.squares, whole.squares, rtol=1e-9, atol=1e-12 * (size**2).max() + 1e-300)


def test_a_dimension_that_begins_to_vary_is_scaled_from_then_on():
    scale = RunningNormalisation(1)
    scale.add(Moments.of(np.full((50, 1), 100.0)))
    assert scale(torch.tensor([[100.0], [103.0]])).flatten().tolist() == [0, 3]
    scale.add(Moments.of(np.linspace(100, 300, 50)[:, None]))
    assert scale(torch.tensor([[300.0]])).item() == pytest.approx(2, abs=0.5)


def test_statistics_of_demonstrations_stay():
    scale = RunningNormalisation(SIZE, added=1e-3)
    shown = torch.from_numpy(states("mixed", ROWS))
    scale.fit(shown)
    assert torch.equal(scale.mean, shown.mean(0)) and torch.equal(scale.deviation, shown.std(0) + 1e-3)
    before = {name: tensor.clone() for name, tensor in scale.state_dict().items()}
    scale.add(Moments.of_rows(states("around 100", ROWS)))
    assert not scale.counts and all(torch.equal(tensor, before[name]) for name, tensor in scale.state_dict().items())


@pytest.mark.parametrize("rows", [1, 2])
def test_few_demonstrations_give_statistics_that_are_numbers(rows):
    scale = RunningNormalisation(SIZE)
    scale.fit(torch.from_numpy(states("around 100", rows)))
    assert scale(torch.from_numpy(states("around 100", 20))).isfinite().all()


CAMERAS = [{}, {"front": (36, 36, 3)}, {"front.left": (36, 36, 1), "wrist": (32, 40, 3)}]


@pytest.mark.parametrize("cameras", CAMERAS)
def test_a_saved_policy_keeps_its_statistics_and_goes_on_counting(tmp_path, cameras):
    policy, again = actor_critic(cameras), actor_critic(cameras)
    for scale in policy.running_normalisations().values():
        scale.add(Moments.of(np.random.default_rng(0).uniform(50, 90, (20, scale.mean.numel()))))
    policy.save(tmp_path, "actor_critic")
    again.restore(tmp_path)
    ours, theirs = policy.state_dict(), again.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert all(scale.counts for scale in again.running_normalisations().values())


@pytest.mark.parametrize("cameras", CAMERAS)
def test_a_policy_of_an_earlier_release_sees_as_it_did(tmp_path, cameras):
    policy, again = actor_critic(cameras), actor_critic(cameras)
    policy.save(tmp_path, "actor_critic")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "scale" not in name}, tmp_path / "model.safetensors")
    again.restore(tmp_path)
    for name, scale in again.running_normalisations().items():
        assert scale.count == FIXED, name
        scale.add(Moments.of(np.full((5, scale.mean.numel()), 100.0)))
        assert (scale.mean == 0).all() and (scale.deviation == (1 if name == "state" else 255)).all()


def test_a_mini_vla_of_an_earlier_release_keeps_the_statistics_of_its_cloning(tmp_path):
    policy, again = mini_vla(), mini_vla()
    policy.fit_normalisation(torch.from_numpy(states("mixed", 30)), torch.zeros(30, 1, 2))
    policy.save(tmp_path, "mini_vla")
    saved = load_file(tmp_path / "model.safetensors")
    old = {name: tensor for name, tensor in saved.items() if not name.startswith("state_scale")}
    old |= {"state_mean": saved["state_scale.mean"], "state_std": saved["state_scale.deviation"]}
    save_file(old, tmp_path / "model.safetensors")
    again.restore(tmp_path)
    ours, theirs = policy.state_scale, again.state_scale
    assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.deviation, theirs.deviation) and not theirs.counts


@pytest.mark.parametrize("lost", ["count", "mean", "seen_squares"])
def test_a_policy_that_lost_some_of_its_statistics_is_refused(tmp_path, lost):
    policy = actor_critic()
    policy.save(tmp_path, "actor_critic")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if name != f"state_scale.{lost}"}, tmp_path / "model.safetensors")
    with pytest.raises(PolicyError, match=f"first state_scale.{lost}: absent in the checkpoint"):
        policy.restore(tmp_path)
