"""Flow-SDE and Flow-Noise against a slow reference written from the papers' equations, and what a random step and step by step evaluation promise.

As in a pretrained policy, the head computes 32 dimensions over a horizon longer than the chunk, and a simulator executes some of them.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, norm

from rlvla3.config import PolicyConfig, check_options
from rlvla3.policies.base import Observations
from rlvla3.policies.options import FlowOptions
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces
from tests.support.flow_reference import Reference, SmallModel, head_of

SIZE, FEATURES, OBSERVED = 32, 5, 3


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """The settings of a flow head, and the shapes of what it computes and of what is executed."""
    method = draw(st.sampled_from(["last_step", "flow_noise", "flow_sde"]))
    options = {
        "method": method,
        "denoising_steps": draw(st.integers(1, 6)),
        "correlation": draw(st.sampled_from([0.0, 0.0, 0.4, 0.9])),
        "noise": draw(st.floats(0.05, 1.5)),
    }
    if method != "flow_sde" and draw(st.booleans()):
        options |= {"noise": "learned", "noise_range": [0.05, draw(st.floats(0.06, 0.5))]}
    if method != "last_step":
        options["steps"] = draw(st.sampled_from(["all", "one"]))
    horizon = draw(st.integers(2, 4))
    return {
        "options": check_options(FlowOptions, options, "flow"),
        "horizon": horizon,
        "chunk": draw(st.integers(1, horizon - 1)),
        "dimensions": sorted(draw(st.permutations(range(SIZE)))[: draw(st.sampled_from([7, 4]))]),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(max_examples=25)
@given(problems())
def test_samples_and_log_probs_are_those_of_the_papers(problem):
    torch.set_default_dtype(torch.float64)
    try:
        check_against_the_papers(**problem)
    finally:
        torch.set_default_dtype(torch.float32)


def check_against_the_papers(options, horizon, chunk, dimensions, seed):
    """The chain that noise leads to, the log-prob of what is executed, and its gradient."""
    torch.manual_seed(seed)
    head, model, rows = head_of(options, horizon, SIZE, FEATURES), SmallModel(horizon, SIZE, FEATURES), 2
    reference, seen = Reference(options, head.noise_network), torch.randn(rows, OBSERVED)
    noise, explore = torch.randn(rows, *options.noise_shape(horizon, SIZE)), torch.tensor([True, False])
    with torch.no_grad():
        sample = head.sample(model.of(seen), noise, explore)
    likelihood = head.evaluate(model.of(seen), sample.trace)
    torch.testing.assert_close(likelihood.logprob, sample.logprob, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(likelihood.features, sample.features, rtol=1e-9, atol=1e-9)
    expected = []
    for row in range(rows):
        velocity = model.of_one(seen[row])
        with torch.no_grad():
            chain, noisy = chain_of(reference, velocity, noise[row], bool(explore[row]))
        torch.testing.assert_close(sample.actions[row], chain[-1], rtol=1e-9, atol=1e-9)
        densities = []
        for k in noisy:
            start = reference.plain(velocity, chain[0], range(k)) if options.method == "last_step" else chain[k]
            densities.append(reference.log_density(velocity, start, chain[k + 1], k, chunk, dimensions))
        expected.append(torch.stack(densities).sum(0))
    executed = likelihood.logprob[:, :chunk, dimensions]
    torch.testing.assert_close(executed, torch.stack(expected), rtol=1e-8, atol=1e-8)
    parameters = [*model.parameters(), *head.parameters()]
    weight = torch.randn(rows, chunk, len(dimensions))
    ours = torch.autograd.grad((executed * weight).sum(), parameters, allow_unused=True, retain_graph=True)
    theirs = torch.autograd.grad((torch.stack(expected) * weight).sum(), parameters, allow_unused=True)
    for our, their in zip(ours, theirs, strict=True):
        zeros = torch.zeros(()) if our is None or their is None else None
        torch.testing.assert_close(zeros if our is None else our, zeros if their is None else their, rtol=1e-7, atol=1e-7)


def chain_of(reference, velocity, noise, explores):
    """Every point from noise to action, and which steps are noisy, for the noise [draws, H, A] of one decision."""
    options, last = reference.options, reference.K - 1
    if options.method == "last_step":
        noisy = [last]
    else:
        noisy = list(range(last + 1)) if options.steps == "all" else [reference.drawn(noise[-1, 0, 0].item())]
    chain = [noise[0]]
    for k in range(last + 1):
        if explores and k in noisy:
            draw = 1 + k if options.noise_everywhere else 1
            chain.append(reference.noisy(velocity, chain[-1], k, noise[draw]))
        else:
            chain.append(reference.plain(velocity, chain[-1], [k]))
    return chain, noisy


@pytest.mark.parametrize("method", ["flow_noise", "flow_sde"])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("n", [1, 4, 5])
def test_one_random_step_is_an_unbiased_estimate_of_all_steps(double_precision, method, correlation, n):
    """Averaged over the steps that may be drawn, on one chain: the log-prob, its gradient, the entropy and the features."""
    torch.manual_seed(n)
    settings_of = {"method": method, "denoising_steps": n, "correlation": correlation}
    everywhere, one = (check_options(FlowOptions, settings_of | {"steps": steps}, "flow") for steps in ("all", "one"))
    head, model, rows = head_of(everywhere, 4, SIZE, FEATURES), SmallModel(4, SIZE, FEATURES), 3
    at_one = head_of(one, 4, SIZE, FEATURES)
    at_one.load_state_dict(head.state_dict())
    seen = torch.randn(rows, OBSERVED)
    with torch.no_grad():
        chain = head.sample(model.of(seen), torch.randn(rows, n + 1, 4, SIZE), torch.ones(rows, dtype=torch.bool)).trace["chain"]
    parameters, weight = [*model.parameters()], torch.randn(rows, 4, SIZE)

    def estimate(head, trace):
        logprob, entropy, features = head.evaluate(model.of(seen), trace)
        return [logprob, entropy, features, *torch.autograd.grad((logprob * weight).sum(), parameters)]

    steps = [{"chain": chain[:, k : k + 2], "step": torch.full((rows,), k, dtype=torch.int32)} for k in range(n)]
    average = [sum(parts) / n for parts in zip(*(estimate(at_one, trace) for trace in steps), strict=True)]
    logprob, entropy, features, *gradient = estimate(head, {"chain": chain})
    wanted = [logprob / n, entropy / n, features, *(part / n for part in gradient)]
    for found, expected in zip(average, wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_the_random_step_is_uniform_and_independent_of_all_other_noise(n):
    options = check_options(FlowOptions, {"method": "flow_sde", "steps": "one", "denoising_steps": n}, "flow")
    head, rows = head_of(options, 2, 3, FEATURES), 20_000
    noise = torch.randn(rows, *options.noise_shape(2, 3), generator=torch.Generator().manual_seed(0))

    def still(points, times):
        return torch.zeros_like(points), points.new_zeros(*points.shape[:3], FEATURES)

    step = head.sample(still, noise, torch.ones(rows, dtype=torch.bool)).trace["step"]
    assert step.dtype == torch.int32
    assert chisquare(torch.bincount(step, minlength=n)).pvalue > 0.001
    noise[:, :-1] = 0
    assert torch.equal(head.sample(still, noise, torch.ones(rows, dtype=torch.bool)).trace["step"], step)
    # Each step has the same share of the normal distribution, up to its ends.
    edges = torch.tensor([norm.ppf(k / n) for k in range(1, n)], dtype=torch.float32)
    assert torch.equal(step.long(), torch.bucketize(noise[:, -1, 0, 0].contiguous(), edges, right=True))
    noise[0, -1], noise[1, -1] = -40.0, 40.0
    assert head.sample(still, noise, torch.ones(rows, dtype=torch.bool)).trace["step"][:2].tolist() == [0, n - 1]


SETTINGS: dict[str, dict[str, Any]] = {
    "last_step": {"method": "last_step"},
    "last_step_learned": {"method": "last_step", "noise": "learned"},
    "flow_noise": {"method": "flow_noise"},
    "flow_noise_fixed": {"method": "flow_noise", "noise": 0.2, "correlation": 0.0},
    "flow_noise_one": {"method": "flow_noise", "steps": "one"},
    "flow_sde": {"method": "flow_sde", "denoising_steps": 5},
    "flow_sde_one": {"method": "flow_sde", "denoising_steps": 5, "steps": "one"},
    "flow_sde_one_uncorrelated": {"method": "flow_sde", "denoising_steps": 10, "steps": "one", "correlation": 0.0},
}


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS.keys())
def test_step_by_step_evaluation_equals_act_to_the_last_bit_and_all_steps_together_to_rounding(options, rows):
    torch.manual_seed(rows)
    apart = head_of(check_options(FlowOptions, options, "flow"), 6, SIZE, FEATURES, together=False)
    together = head_of(apart.options, 6, SIZE, FEATURES, together=True)
    together.load_state_dict(apart.state_dict())
    model, seen = SmallModel(6, SIZE, FEATURES), torch.randn(rows, OBSERVED)
    noise, explore = torch.randn(rows, *apart.options.noise_shape(6, SIZE)), torch.arange(rows) % 3 > 0
    with torch.no_grad():
        sample = apart.sample(model.of(seen), noise, explore)
    recorded = {name: tensor.clone() for name, tensor in sample.trace.items()}
    likelihood = apart.evaluate(model.of(seen), recorded)
    assert torch.equal(likelihood.logprob, sample.logprob) and torch.equal(likelihood.features, sample.features)
    for ours, theirs in zip(together.evaluate(model.of(seen), recorded), likelihood, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 5, 16])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_transformer_too_evaluates_step_by_step_to_the_last_bit(options, rows):
    torch.manual_seed(rows)
    spaces = Spaces({"front": (64, 64, 3)}, 4, ActionSpace("continuous", 7), 100)
    small = {"width": 32, "layers": 2, "expert_width": 32, "instruction_bytes": 32, "flow": options}
    policy: Any = make_policy(PolicyConfig(name="mini_vla", chunk=5, options=small), spaces)
    policy.head.together = False
    for parameter in policy.parameters():  # what begins at zero would hide mistakes
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randint(0, 256, (rows, 64, 64, 3), dtype=torch.uint8)
    seen = Observations({"front": images}, torch.randn(rows, 4), torch.rand(rows), ["push", "press the button"] * (rows // 2) + ["pull"] * (rows % 2))
    decided = policy.act(seen, torch.randn(rows, *policy.options.noise_shape(spaces, 5)), torch.arange(rows) % 3 > 0)
    again = policy.evaluate(seen, decided.actions, decided.trace)
    assert torch.equal(again.logprob, decided.logprob) and torch.equal(again.value, decided.value)
