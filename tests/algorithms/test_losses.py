"""Losses, ratios and corrections against their formulas, written out one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.algorithms.corrections import CORRECTIONS, make_correction
from rlvla3.algorithms.losses import clipped_surrogate, entropy_sum, reference_loss, soft_surrogate, value_loss
from rlvla3.algorithms.ratios import executed_actions, ratio_metrics, ratios, staleness_metrics
from rlvla3.config import AlgorithmConfig, make_recipe
from rlvla3.errors import RecipeError

DECISIONS, CHUNK, ACTION = 6, 3, 2
LEVELS = ["chunk", "action", "dimension"]
seeds = st.integers(0, 2**16)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decisions_of(seed: int):
    """(new, old log-probs [B, C, A], executed counts [B], advantages [B]), with ratios on both sides of the clip."""
    old = drawn(seed, DECISIONS, CHUNK, ACTION)
    executed = torch.randint(1, CHUNK + 1, (DECISIONS,), generator=torch.Generator().manual_seed(seed))
    return old + drawn(seed + 1, DECISIONS, CHUNK, ACTION, scale=0.3), old, executed, drawn(seed + 2, DECISIONS)


def scalar_ratios(new, old, executed, level):
    """(log-ratio, weight) of every decision's executed terms."""
    for new_chunk, old_chunk, count in zip(new.tolist(), old.tolist(), executed.tolist(), strict=True):
        logs = [[new_chunk[c][a] - old_chunk[c][a] for a in range(ACTION)] for c in range(count)]
        if level == "chunk":
            yield [(sum(map(sum, logs)), 1.0)]
        elif level == "action":
            yield [(sum(action), 1 / CHUNK) for action in logs]
        else:
            yield [(log, 1 / (CHUNK * ACTION)) for action in logs for log in action]


def scalar_ppo(ratio: float, advantage: float, low: float, high: float, dual: float | None) -> float:
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    return max(objective, dual * advantage) if dual is not None and advantage < 0 else objective


def reached(executed):
    return executed_actions(executed, torch.full_like(executed, ACTION), (CHUNK, ACTION))


def formed(new, old, executed, level):
    return ratios(new, old, reached(executed), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dual", [None, 1.5])
@given(seeds)
def test_the_clipped_surrogate_at_every_level(level, dual, seed):
    new, old, executed, advantage = decisions_of(seed)
    terms = zip(scalar_ratios(new, old, executed, level), advantage.tolist(), strict=True)
    expected = sum(weight * scalar_ppo(math.exp(log), of_decision, 0.1, 0.3, dual) for logs, of_decision in terms for log, weight in logs)
    ratio = formed(new, old, executed, level)
    found = (ratio.weight * clipped_surrogate(ratio.value, advantage[:, None], 0.1, 0.3, dual)).sum()
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("level", LEVELS)
def test_a_decision_weighs_the_same_at_every_level(level):
    new, old, _, _ = decisions_of(0)
    whole = torch.full((DECISIONS,), CHUNK)
    torch.testing.assert_close(formed(new, old, whole, level).weight.sum(1), torch.ones(DECISIONS, dtype=torch.float64))


@pytest.mark.parametrize("level", LEVELS)
def test_what_was_not_executed_has_no_influence(level):
    new, old, executed, _ = decisions_of(0)
    garbage = torch.where(reached(executed), old, 1e6)
    for clean, dirty in ((formed(new, old, executed, level), formed(new, garbage, executed, level)),):
        assert torch.equal(clean.log, dirty.log) and torch.equal(clean.executed, dirty.executed)


@pytest.mark.parametrize("level", ["chunk", "action", "dimension"])
def test_dimensions_that_an_environment_does_not_take_do_not_count(level):
    """A decision in an environment of fewer dimensions weighs what it would by itself."""
    new, old, executed, _ = decisions_of(0)
    own = ratios(new[..., :1], old[..., :1], executed_actions(executed, torch.ones_like(executed), (CHUNK, 1)), level)
    wide = ratios(new, old, executed_actions(executed, torch.ones_like(executed), (CHUNK, ACTION)), level)
    counted = wide.weight > 0
    assert torch.equal(wide.log[counted], own.log[own.weight > 0]) and torch.equal(wide.weight[counted], own.weight[own.weight > 0])
    assert not wide.log[~counted].any()


def test_the_gradient_stays_finite_where_a_ratio_overflows():
    new = torch.full((1, 1, 1), 1000.0, requires_grad=True)
    ratio = ratios(new, torch.zeros(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool), "action")
    for surrogate in (clipped_surrogate(ratio.value, torch.ones(1, 1), 0.2, 0.2), soft_surrogate(ratio.value, torch.ones(1, 1), (1, 1))):
        (gradient,) = torch.autograd.grad(surrogate.sum(), new, retain_graph=True)
        assert torch.isfinite(gradient).all()


@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(0.5, 3), st.floats(0.5, 3))
def test_the_soft_surrogate_and_the_weight_of_its_gradient(log, advantage, positive, other):
    """SAPO's objective, and the weight 4 p (1 - p) r that the paper derives for the gradient of log pi."""
    present = torch.tensor([[log]], dtype=torch.float64, requires_grad=True)
    objective = soft_surrogate(present.exp(), torch.tensor([[advantage]], dtype=torch.float64), (positive, other))
    tau, ratio = positive if advantage > 0 else other, math.exp(log)
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    assert objective.item() == pytest.approx(4 / tau * gate * advantage, rel=1e-10, abs=1e-12)
    (gradient,) = torch.autograd.grad(objective.sum(), present)
    assert gradient.item() == pytest.approx(4 * gate * (1 - gate) * ratio * advantage, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("clip", [None, 0.2])
@given(seeds)
def test_the_value_loss_is_the_worse_of_the_plain_and_the_clipped_error(clip, seed):
    value, target, behaviour = (drawn(seed + which, 20) for which in range(3))
    expected = 0.0
    for v, t, b in zip(value.tolist(), target.tolist(), behaviour.tolist(), strict=True):
        near = v if clip is None else b + min(max(v - b, -clip), clip)
        expected += max((v - t) ** 2, (near - t) ** 2)
    assert value_loss(value, target, behaviour, clip).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@given(seeds)
def test_the_reference_loss_at_every_level(level, estimator, seed):
    new, reference, executed, _ = decisions_of(seed)
    formulas = {"k1": lambda s: -s, "k2": lambda s: s**2 / 2, "k3": lambda s: math.exp(s) - 1 - s}
    terms = [term for decision in scalar_ratios(reference, new, executed, level) for term in decision]
    expected = sum(weight * formulas[estimator](log) for log, weight in terms)
    assert reference_loss(formed(new, reference, executed, level), estimator).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_estimators_measure_the_kl_of_two_gaussians(estimator):
    """KL(policy || reference) from samples of the policy, against its closed form; k2 is biased, little for policies so near."""
    policy, reference = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.1, 1.0)
    samples = drawn(0, 400_000)
    new, old = (of.log_prob(samples)[:, None, None] for of in (policy, reference))
    found = reference_loss(ratios(new, old, torch.ones(len(samples), 1, 1, dtype=torch.bool), "chunk"), estimator) / len(samples)
    assert found.item() == pytest.approx(torch.distributions.kl_divergence(policy, reference).item(), rel=0.1)


def test_entropy_counts_executed_actions_per_action_of_the_chunk():
    entropy = torch.arange(12.0).reshape(2, 3, 2)
    executed = executed_actions(torch.tensor([1, 3]), torch.tensor([2, 2]), (3, 2))
    assert entropy_sum(entropy, executed).item() == pytest.approx((0 + 1 + 6 + 7 + 8 + 9 + 10 + 11) / 3)


def configured(correction, **settings) -> AlgorithmConfig:
    return AlgorithmConfig.model_validate({"correction": correction, "clip_low": 0.1, "clip_high": 0.3, "dual_clip": 2.0, **settings})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", list(CORRECTIONS))
@given(seeds)
def test_each_correction_is_its_formula(level, name, seed):
    """The corrected objective and its gradient in log pi, from the papers' formulas: three policies, one number at a time."""
    config = configured({"name": name, "cap": 1.2} if name in ("truncated", "vtrace") else name)
    correction = make_correction(config)
    proximal, behaviour, executed, advantage = decisions_of(seed)
    present = (proximal + drawn(seed + 5, DECISIONS, CHUNK, ACTION, scale=0.3)).requires_grad_()
    anchor = proximal if correction.anchor == "proximal" else behaviour
    ratio = formed(present, anchor, executed, level)
    weight = correction.weight(formed(proximal, behaviour, executed, level).value) if correction.anchor == "proximal" else 1.0
    (ratio.weight * weight * correction.surrogate(ratio.value, advantage[:, None])).sum().backward()
    assert present.grad is not None

    h = 1e-6
    row, c, a = seed % DECISIONS, 0, seed % ACTION  # the first action is always executed

    def moved(by: float) -> float:
        elsewhere = present.detach().clone()
        elsewhere[row, c, a] += by
        return scalar_objective(name, elsewhere, proximal, behaviour, executed, advantage, level)

    expected = (moved(h) - moved(-h)) / (2 * h)
    kinks = [abs(math.exp(log) - edge) for terms in scalar_ratios(present.detach(), anchor, executed, level) for log, _ in terms for edge in (0.9, 1.3, 2.0)]
    if min(kinks) > 1e-4:
        assert present.grad[row, c, a].item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


def scalar_objective(name, present, proximal, behaviour, executed, advantage, level) -> float:
    total = 0.0
    to_behaviour, to_proximal, stale = (scalar_ratios(*pair, executed, level) for pair in ((present, behaviour), (present, proximal), (proximal, behaviour)))
    for by_behaviour, by_proximal, off, a in zip(to_behaviour, to_proximal, stale, advantage.tolist(), strict=True):
        for (u, counts), (r, _), (w, _) in zip(by_behaviour, by_proximal, off, strict=True):
            match name:
                case "none":
                    objective = scalar_ppo(math.exp(u), a, 0.1, 0.3, 2.0)
                case "decoupled":
                    objective = math.exp(w) * scalar_ppo(math.exp(r), a, 0.1, 0.3, 2.0)
                case "truncated" | "vtrace":
                    objective = min(math.exp(w), 1.2) * scalar_ppo(math.exp(r), a, 0.1, 0.3, 2.0)
                case "soft":
                    tau = 1.0 if a > 0 else 1.05
                    objective = 4 / tau / (1 + math.exp(-tau * (math.exp(u) - 1))) * a
            total += counts * objective
    return total


def test_decoupled_weights_make_the_gradient_that_of_fresh_data():
    """The expectation over stale data, weighed, is the expectation over the proximal policy's own: exactly, over a finite set of actions."""
    behaviour, proximal = (torch.softmax(drawn(seed, 5), 0) for seed in (1, 2))
    present, advantage = torch.softmax(drawn(3, 5, scale=0.2) + proximal.log(), 0), drawn(4, 5)
    correction = make_correction(configured("decoupled"))
    surrogate = correction.surrogate((present / proximal)[:, None], advantage[:, None])[:, 0]
    weight = correction.weight((proximal / behaviour)[:, None])[:, 0]
    torch.testing.assert_close((behaviour * weight * surrogate).sum(), (proximal * surrogate).sum())


def test_a_correction_of_ones_own_and_one_that_is_not_there():
    assert type(make_correction(configured("rlvla3.algorithms.corrections:Soft"))).__name__ == "Soft"
    with pytest.raises(RecipeError, match=r"algorithm\.correction=nowhere:Class cannot be loaded"):
        make_correction(configured("nowhere:Class"))
    with pytest.raises(RecipeError, match="numpy:ndarray is not a correction: it must be a subclass"):
        make_correction(configured("numpy:ndarray"))
    with pytest.raises(RecipeError, match="retrace is not a correction: use none, decoupled"):
        make_recipe({"algorithm": {"correction": "retrace"}})


@pytest.mark.parametrize("settings", [{"advantage": "grpo", "group_size": 2, "correction": "vtrace"}, {"advantage": "rloo"}, {"filter_groups": True}])
def test_settings_that_do_not_go_together_are_refused(settings):
    with pytest.raises(RecipeError, match=r"algorithm\."):
        make_recipe({"algorithm": settings})


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=40))
def test_ratio_metrics_are_those_of_brute_force(logs):
    found = ratio_metrics(torch.tensor(logs, dtype=torch.float64), 0.2, 0.2)
    values = sorted(map(math.exp, logs))
    assert found["approx_kl"] == pytest.approx(sum(math.exp(log) - 1 - log for log in logs) / len(logs), abs=1e-12)
    assert found["clip_share"] == sum(not 0.8 <= value <= 1.2 for value in values) / len(values)
    assert found["ratio_mean"] == pytest.approx(sum(values) / len(values))
    assert found["ratio_max"] == pytest.approx(values[-1])
    for name, share in (("ratio_p05", 0.05), ("ratio_p50", 0.5), ("ratio_p95", 0.95)):
        place = share * (len(values) - 1)
        below, above = values[math.floor(place)], values[math.ceil(place)]
        assert found[name] == pytest.approx(below + (place - math.floor(place)) * (above - below))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=40))
def test_staleness_metrics_are_those_of_brute_force(logs):
    found = staleness_metrics(torch.tensor(logs, dtype=torch.float64))
    weights = [math.exp(log) for log in logs]
    assert found["effective_sample_size"] == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights) / len(weights))
    assert found["staleness_kl"] == pytest.approx(sum(w - 1 - log for w, log in zip(weights, logs, strict=True)) / len(logs), abs=1e-12)
    assert found["staleness_ratio_mean"] == pytest.approx(sum(weights) / len(weights))
    assert (found["staleness_ratio_p05"], found["staleness_ratio_p95"]) == pytest.approx(tuple(np.quantile(weights, [0.05, 0.95])))


def test_the_effective_sample_size_of_one_heavy_decision_is_its_share():
    assert staleness_metrics(torch.zeros(7, dtype=torch.float64))["effective_sample_size"] == 1
    heavy = torch.tensor([10.0, -10, -10, -10], dtype=torch.float64)
    assert staleness_metrics(heavy)["effective_sample_size"] == pytest.approx(1 / 4)
