"""The distribution of sampled chains is the stated one. Each check is also run on heads whose deviation or mean is wrong by 5 %, and must find that.

All seeds are fixed. Tolerances are 5 standard errors, so a correct head fails about once in a million choices of the seed.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scipy.stats import kstest

from rlvla3.config import check_options
from rlvla3.policies.flow import FlowHead
from rlvla3.policies.options import FlowOptions
from tests.support.flow_reference import head_of

C, A, E = 2, 2, 2
CENTRE, SPREAD = 0.8, 0.5
"""The actions that the flow leads to are normal with this mean and this deviation."""

Check = Callable[[FlowHead], None]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(torch.float32)


def gaussian_flow(points, times, shift=0.0):
    """The velocity E[noise - action | x] of normal actions, which is linear in x."""
    t = times[..., None, None]
    slope = (t - (1 - t) * SPREAD**2) / (t**2 + (1 - t) ** 2 * SPREAD**2)
    velocity = shift - CENTRE + slope * (points - (1 - t) * CENTRE)
    return velocity, torch.stack([points.mean(-1), points.std(-1)], -1)


def make(head_class: type[FlowHead] = FlowHead, **options: Any) -> FlowHead:
    head = head_of(check_options(FlowOptions, options, "flow"), C, A, E)
    head.__class__ = head_class
    return head


def sampled(head, rows):
    noise = torch.randn(rows, *head.options.noise_shape(C, A), generator=torch.Generator().manual_seed(1))
    return head.sample(gaussian_flow, noise, torch.ones(rows, dtype=torch.bool))


def within(found, expected, error, what):
    """found is `expected` up to 5 standard errors."""
    apart = (torch.as_tensor(found) - expected).abs().max()
    assert apart <= 5 * error, f"{what} is wrong by {apart:.4f}, more than 5 times {error:.4f}"


def check_residuals(head: FlowHead) -> None:
    """Each step's residual, standardised with the paper's mean and deviation, is standard normal, correlated over the chunk and with nothing else."""
    rows, n, rho, level = 10_000, head.K, head.options.correlation, float(head.options.noise)
    chain = sampled(head, rows).trace["chain"]
    for k in range(n):
        x, t, d = chain[:, k], 1 - k / n, 1 / n
        v = gaussian_flow(x[:, None], torch.full((1, 1), t))[0][:, 0]
        sigma = 0.0
        if head.options.method == "flow_sde":
            sigma = level * math.sqrt(t / (1 - (1 - d if k == 0 else t)))
        std = sigma * math.sqrt(d) or level
        z = (chain[:, k + 1] - x + d * (v + sigma**2 / (2 * t) * (x + (1 - t) * v))) / std
        for number in z.flatten(1).T:
            within(number.mean(), 0, 1 / math.sqrt(rows), "the mean")
            within(number.std(), 1, 1 / math.sqrt(2 * rows), "the deviation")
            assert kstest(number.numpy(), "norm").pvalue > 1e-5
        together = torch.corrcoef(torch.cat([z.flatten(1), x.flatten(1)], 1).T)
        covariance = rho * torch.ones(C, C) + (1 - rho) * torch.eye(C)
        within(together[: C * A, : C * A], torch.kron(covariance, torch.eye(A)), 1 / math.sqrt(rows), "the correlation over the chunk")
        within(together[: C * A, C * A :], 0, 1 / math.sqrt(rows), "the correlation with the point before")


def check_ratios(head: FlowHead) -> None:
    """E[q / p] is 1 for the density q of another velocity, and E[-log p] is the entropy."""
    rows = 80_000
    sample = sampled(head, rows)

    def log_ratio(shift):
        moved = head.evaluate(lambda points, times: gaussian_flow(points, times, shift), sample.trace)
        return (moved.logprob - sample.logprob).sum((1, 2))

    shift = 1e-3 * 0.8 / log_ratio(1e-3).std()  # far enough to see mistakes, and near enough for the mean to have a small error
    ratio = log_ratio(shift).exp()
    within(ratio.mean(), 1, ratio.std() / math.sqrt(rows), "the mean ratio")
    excess = (-sample.logprob - head.evaluate(gaussian_flow, sample.trace).entropy).sum((1, 2))
    within(excess.mean(), 0, excess.std() / math.sqrt(rows), "the entropy")


def check_marginals(head: FlowHead) -> None:
    """Flow-SDE has the flow's marginals at every time, in the limit of many steps: t noise + (1 - t) action. They are exact in the mean here."""
    rows, n = 4000, head.K
    chain = sampled(head, rows).trace["chain"]
    for k in range(n // 2, n + 1, 4):  # the first steps are too coarse, because sigma is infinite at t = 1
        t = 1 - k / n
        expected = math.hypot(t, (1 - t) * SPREAD)
        within(chain[:, k].mean((0, 2)), (1 - t) * CENTRE, expected / math.sqrt(rows * A), "the mean")
        deviation = chain[:, k].std() / expected
        assert abs(deviation - 1) < 0.02, f"the deviation at time {t} is {deviation:.3f} times that of the flow"


class LargerDeviation(FlowHead):
    """In samples and in densities."""

    def _gaussian(self, x, velocity, features, step):
        mean, std = super()._gaussian(x, velocity, features, step)
        return mean, 1.05 * std


class SmallerDeviation(FlowHead):
    def _gaussian(self, x, velocity, features, step):
        mean, std = super()._gaussian(x, velocity, features, step)
        return mean, 0.95 * std


class LargerMean(FlowHead):
    def _gaussian(self, x, velocity, features, step):
        mean, std = super()._gaussian(x, velocity, features, step)
        return 1.05 * mean, std


class LargerDeviationInDensities(FlowHead):
    """Samples are right."""

    def log_density(self, x, mean, std):
        return super().log_density(x, mean, 1.05 * std)


class SmallerDeviationInDensities(FlowHead):
    def log_density(self, x, mean, std):
        return super().log_density(x, mean, 0.95 * std)


class LargerMeanInDensities(FlowHead):
    def log_density(self, x, mean, std):
        return super().log_density(x, 1.05 * mean, std)


class ForgetsCorrelation(FlowHead):
    """In densities."""

    def log_density(self, x, mean, std):
        z = (x - mean) / std
        return -0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi)


RESIDUALS: dict[str, dict[str, Any]] = {
    "flow_sde": {"method": "flow_sde"},
    "flow_sde_uncorrelated": {"method": "flow_sde", "denoising_steps": 5, "correlation": 0.0},
    "flow_noise": {"method": "flow_noise", "noise": 0.3},
}
RATIOS: dict[str, dict[str, Any]] = {
    "last_step": {"method": "last_step"},
    "flow_sde": {"method": "flow_sde"},
    "flow_sde_one": {"method": "flow_sde", "steps": "one"},
    "flow_noise_learned": {"method": "flow_noise", "noise_range": [0.1, 0.5]},
    "flow_noise_one": {"method": "flow_noise", "steps": "one", "noise": 0.3},
}
MARGINALS: dict[str, dict[str, Any]] = {"flow_sde": {"method": "flow_sde", "denoising_steps": 128}}

CHECKS: list[tuple[Check, dict[str, dict[str, Any]], list[type[FlowHead]]]] = [
    (check_residuals, RESIDUALS, [LargerDeviation, SmallerDeviation, LargerMean]),
    (check_ratios, RATIOS, [LargerDeviationInDensities, SmallerDeviationInDensities, LargerMeanInDensities, ForgetsCorrelation]),
    (check_marginals, MARGINALS, [LargerDeviation, SmallerDeviation, LargerMean]),
]
EACH = [pytest.param(check, options, id=f"{check.__name__}-{name}") for check, settings, _ in CHECKS for name, options in settings.items()]
WRONG = [
    pytest.param(check, options, wrong, id=f"{check.__name__}-{name}-{wrong.__name__}")
    for check, settings, heads in CHECKS
    for name, options in settings.items()
    for wrong in heads
]


@pytest.mark.parametrize(("check", "options"), EACH)
def test_chains_have_the_stated_distribution(check, options):
    check(make(**options))


@pytest.mark.parametrize(("check", "options", "wrong"), WRONG)
def test_a_deviation_or_a_mean_that_is_wrong_by_5_percent_is_found(check, options, wrong):
    with pytest.raises(AssertionError, match=r"wrong by|deviation|pvalue"):
        check(make(wrong, **options))
