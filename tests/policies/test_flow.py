"""Flow matching's log-probs against the formulas they stand for, written out independently."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from rlvla3.config import check_options
from rlvla3.errors import RecipeError
from rlvla3.policies.flow import FlowHead
from rlvla3.policies.options import FlowOptions

B, C, A, E = 6, 3, 2, 5

METHODS = {
    "last_step": {},
    "last_step_learned": {"method": "last_step", "noise": "learned"},
    "flow_noise": {"method": "flow_noise"},
    "flow_noise_fixed": {"method": "flow_noise", "noise": 0.2},
    "flow_noise_one": {"method": "flow_noise", "steps": "one"},
    "flow_sde": {"method": "flow_sde"},
    "flow_sde_one": {"method": "flow_sde", "steps": "one"},
    "uncorrelated": {"method": "flow_sde", "correlation": 0.0},
    "single_step": {"method": "flow_sde", "denoising_steps": 1},
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class TinyModel(nn.Module):
    """A velocity that depends on the whole chunk and on time."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(C * A + 1, C * E), nn.Linear(E, A)

    def forward(self, points, times):
        flat = torch.cat([points.flatten(2), times[..., None].expand(*points.shape[:2], 1)], -1)
        features = torch.tanh(self.inner(flat)).unflatten(-1, (C, E))
        return self.outer(features), features


def make(**options):
    head = FlowHead(check_options(FlowOptions, options, "flow"), C, A, E)
    if head.noise_network is not None:
        for parameter in head.noise_network.parameters():
            nn.init.normal_(parameter, std=0.5)
    return head, TinyModel()


def noise_for(head, rows=B):
    return torch.randn(rows, *head.options.noise_shape(C, A))


def covariance(rho):
    return torch.full((C, C), rho) + (1 - rho) * torch.eye(C)


def gaussian_log_prob(x, mean, std, rho):
    """The joint log-density of chunks [C, A] whose actions' noise is correlated and whose dimensions are independent."""
    std = std.expand_as(mean)
    scaled = [std[:, a].diag() @ covariance(rho) @ std[:, a].diag() for a in range(A)]
    return sum(MultivariateNormal(mean[:, a], scaled[a]).log_prob(x[:, a]) for a in range(A))


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
def test_evaluate_finds_the_log_prob_of_every_sample(options):
    head, model = make(**options)
    sample = head.sample(model, noise_for(head), torch.arange(B) % 2 == 0)
    logprob, entropy, _ = head.evaluate(model, sample.trace)
    assert logprob.shape == entropy.shape == (B, C, A)
    torch.testing.assert_close(logprob, sample.logprob, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
def test_the_trace_is_laid_out_as_the_options_say(options):
    head, model = make(**options)
    trace = head.sample(model, noise_for(head), torch.ones(B, dtype=torch.bool)).trace
    layout = head.options.trace(C, A)
    assert {name: tuple(tensor.shape[1:]) for name, tensor in trace.items()} == {name: field.shape for name, field in layout.items()}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
def test_without_exploration_a_chunk_is_the_plain_flow_from_its_first_noise(options):
    head, model = make(**options)
    noise, other = noise_for(head), noise_for(head)
    other[:, 0] = noise[:, 0]
    x = noise[:, :1]
    for k in range(head.K):
        x = x - model(x, torch.full((1, 1), 1 - k / head.K))[0] / head.K
    nobody = torch.zeros(B, dtype=torch.bool)
    for given in (noise, other):
        torch.testing.assert_close(head.sample(model, given, nobody).actions, x[:, 0], rtol=0, atol=1e-12)
    explored = head.sample(model, noise, ~nobody).actions
    assert ((explored - x[:, 0]).abs().amax((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS.keys())
def test_a_chunk_does_not_depend_on_the_rest_of_its_batch(options):
    head, model = make(**options)
    noise, explore = noise_for(head), torch.arange(B) % 2 == 0
    together = head.sample(model, noise, explore)
    for row in range(B):
        alone = head.sample(model, noise[row : row + 1], explore[row : row + 1])
        torch.testing.assert_close(alone.actions[0], together.actions[row], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.logprob[0], together.logprob[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_last_step_sums_to_the_density_of_a_correlated_gaussian(rho):
    head, model = make(correlation=rho)
    sample = head.sample(model, noise_for(head), torch.ones(B, dtype=torch.bool))
    x = sample.trace["chain"][:, :1]
    for k in range(head.K):
        x = x - model(x, torch.full((1, 1), 1 - k / head.K))[0] / head.K
    for row in range(B):
        expected = gaussian_log_prob(sample.actions[row], x[row, 0], torch.tensor(0.3), rho)
        torch.testing.assert_close(sample.logprob[row].sum(), expected, rtol=0, atol=1e-10)


def test_each_action_s_density_is_conditional_on_the_actions_before_it():
    head, _ = make(correlation=0.6)
    x, mean, std = torch.randn(C, A), torch.randn(C, A), torch.rand(C, A) + 0.1
    logprob = head.log_density(x, mean, std)
    for a in range(A):
        joint = [MultivariateNormal(mean[:n, a], std[:n, a].diag() @ covariance(0.6)[:n, :n] @ std[:n, a].diag()).log_prob(x[:n, a]) for n in range(1, C + 1)]
        expected = torch.stack([joint[0], *(late - early for early, late in pairwise(joint))])
        torch.testing.assert_close(logprob[:, a], expected, rtol=0, atol=1e-10)


def test_flow_noise_is_the_sum_over_its_steps_and_keeps_its_learned_deviation_in_range():
    head, model = make(method="flow_noise", noise_range=[0.08, 0.16])
    sample = head.sample(model, noise_for(head), torch.ones(B, dtype=torch.bool))
    chain, expected = sample.trace["chain"], torch.zeros(B)
    for k in range(head.K):
        velocity, features = model(chain[:, k : k + 1], torch.full((1, 1), 1 - k / head.K))
        std = 0.08 * 2 ** ((torch.tanh(head.noise_network(features)) + 1) / 2)
        assert (std >= 0.08).all() and (std <= 0.16).all() and std.std() > 1e-3
        mean = chain[:, k] - velocity[:, 0] / head.K
        expected += torch.stack([gaussian_log_prob(chain[row, k + 1], mean[row], std[row, 0], 0.5) for row in range(B)])
    torch.testing.assert_close(sample.logprob.sum((1, 2)), expected, rtol=0, atol=1e-9)


def sde_step(x, v, k, steps, level):
    """pi_RL's Flow-SDE step for one number, in its own words: (mean, standard deviation)."""
    times = [1 - i / steps for i in range(steps + 1)]
    t, d = times[k], times[k] - times[k + 1]
    sigma = level * math.sqrt(t / (1 - (times[1] if t == 1 else t)))
    x0, x1 = x - v * t, x + v * (1 - t)
    return x0 * (1 - (t - d)) + x1 * (t - d - sigma**2 * d / (2 * t)), math.sqrt(d) * sigma


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_flow_sde_steps_as_the_paper_writes_them(steps):
    head, model = make(method="flow_sde", denoising_steps=steps, noise=0.5)
    for k in range(steps):
        x = torch.randn(1, 1, C, A)
        velocity, features = model(x, torch.full((1, 1), 1 - k / steps))
        mean, std = head._gaussian(x, velocity, features, torch.full((1, 1), float(k)))
        for c in range(C):
            for a in range(A):
                expected = sde_step(x[0, 0, c, a].item(), velocity[0, 0, c, a].item(), k, steps, 0.5)
                assert (mean[0, 0, c, a].item(), std.item()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", ["flow_noise", "flow_sde"])
def test_one_step_is_noisy_where_it_was_drawn_and_nowhere_else(method):
    one, model = make(method=method, steps="one", noise=0.5)
    all_steps, _ = make(method=method, steps="all", noise=0.5)
    noise = noise_for(one, 400)
    sample = one.sample(model, noise, torch.ones(400, dtype=torch.bool))
    drawn = sample.trace["step"]
    assert torch.bincount(drawn, minlength=one.K).min() > 60, "the step is not drawn evenly"
    for row in range(0, 400, 40):
        k = int(drawn[row])
        x = noise[row : row + 1, :1]
        for step in range(k):
            x = x - model(x, torch.full((1, 1), 1 - step / one.K))[0] / one.K
        torch.testing.assert_close(sample.trace["chain"][row, 0], x[0, 0], rtol=0, atol=1e-12)
        velocity, features = model(x, torch.full((1, 1), 1 - k / one.K))
        mean, std = all_steps._gaussian(x, velocity, features, torch.full((1, 1), float(k)))
        arrived = sample.trace["chain"][row, 1]
        torch.testing.assert_close(sample.logprob[row], all_steps.log_density(arrived, mean[0, 0], std[0, 0]), rtol=0, atol=1e-10)


def test_last_step_s_gradient_reaches_all_steps():
    head, model = make()
    trace = head.sample(model, noise_for(head), torch.ones(B, dtype=torch.bool)).trace
    trace = {name: tensor.detach() for name, tensor in trace.items()}
    head.evaluate(model, trace)[0].sum().backward()
    weight, shift = model.outer.weight, 1e-6
    for index in [(0, 0), (1, 3)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * shift
                ends.append(head.evaluate(model, trace)[0].sum())
                weight[index] -= sign * shift
        assert weight.grad[index].item() == pytest.approx(((ends[0] - ends[1]) / (2 * shift)).item(), rel=1e-6)


def test_the_gradient_through_every_step_counts():
    head, model = make()
    trace = head.sample(model, noise_for(head), torch.ones(B, dtype=torch.bool)).trace
    answers = []

    def recorded(points, times):
        velocity, features = model(points, times)
        velocity.retain_grad()
        answers.append(velocity)
        return velocity, features

    head.evaluate(recorded, {"chain": trace["chain"].detach()})[0].sum().backward()
    assert len(answers) == head.K
    assert all(velocity.grad.abs().min() > 0 for velocity in answers)


def test_exploration_noise_is_correlated_over_the_chunk():
    head, model = make(correlation=0.5, noise=0.3)
    noise = noise_for(head, 20_000)
    everyone = torch.ones(len(noise), dtype=torch.bool)
    moved = head.sample(model, noise, everyone).actions - head.sample(model, noise, ~everyone).actions
    measured = torch.cov(moved[..., 0].T) / 0.3**2
    torch.testing.assert_close(measured, covariance(0.5), rtol=0, atol=0.03)


def test_entropy_is_that_of_the_gaussians():
    head, model = make(correlation=0.7)
    sample = head.sample(model, noise_for(head), torch.ones(B, dtype=torch.bool))
    expected = A * MultivariateNormal(torch.zeros(C), 0.3**2 * covariance(0.7)).entropy()
    _, entropy, _ = head.evaluate(model, sample.trace)
    torch.testing.assert_close(entropy.sum((1, 2)), expected.expand(B), rtol=0, atol=1e-10)


def test_the_clone_loss_is_zero_for_the_true_velocity():
    head, _ = make()
    action = torch.randn(1, C, A)

    def towards_the_action(points, times):
        return (points - action) / times[..., None, None], None

    assert head.clone_loss(towards_the_action, action.expand(B, -1, -1), torch.Generator().manual_seed(0)).item() < 1e-20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "flow_sde", "noise": "learned"}, "noise: 0.5"),
        ({"method": "last_step", "steps": "one"}, "leave steps out"),
        ({"noise_range": [0.2, 0.1]}, "smaller deviation first"),
        ({"correlation": 1.0}, "less than 1"),
        ({"metod": "flow_sde"}, "did you mean method"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        check_options(FlowOptions, options, "policy.options.flow")
