"""How far a sampler's probabilities are from the trainer's, with the same weights: the rounding behind the metric `sampler_mismatch`.

A sampler decides on made-up observations, in small batches with padding rows. The trainer evaluates the same decisions in one micro-batch. The number formats
are those that a run may have. The weights are random, or those of a checkpoint. Trained weights are the better measurement: their probabilities are less even.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rlvla3.algorithms.ratios import Level, mismatch_metrics, ratios
from rlvla3.checking.policy_commands import policy_on_trial
from rlvla3.checking.policy_trial import rows_of
from rlvla3.devices import choose_device
from rlvla3.observability.figures import write_figures
from rlvla3.policies.base import Decisions, Observations, Policy
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy, options_class
from rlvla3.version import __version__

Format = Literal["fp32", "bf16"]

BATCHES = ((1, 1), (3, 2), (8, 5))
"""A sampler's batches, in turn: rows, and how many of them are decisions. The others are padding."""

SEED = 0

TINY: Sequence[tuple[str, str, Sequence[str]]] = (
    ("actor_critic", "actor_critic", ()),
    ("mini_vla, flow", "mini_vla", ()),
    ("mini_vla, tokens", "mini_vla", ("options.head=tokens",)),
    *((family, family, ("size=tiny",)) for family in ("pi0", "pi05", "smolvla", "groot", "openvla_oft")),
)
"""What is measured where no policy is named: (the name in the table, the policy, its settings)."""


@dataclass(frozen=True)
class Case:
    """The number formats of both sides. weights: in which format weights travel to the sampler (weights.dtype)."""

    sampler: Format
    trainer: Format
    weights: Format = "fp32"

    def __str__(self) -> str:
        return f"{self.sampler}{', weights in bf16' if self.weights == 'bf16' else ''} / {self.trainer}"


CASES = (Case("fp32", "fp32"), Case("bf16", "bf16"), Case("bf16", "fp32"), Case("fp32", "fp32", weights="bf16"))


def main(name: str | None, settings: Sequence[str], figures: Path, decisions: int, level: Level, chunk: int, trust: bool = False) -> None:
    """Print a table, and write it as JSON. name: a policy, or a folder that holds one. None: all policies of this package, the pretrained ones at tiny size.

    Raises RecipeError where the policy cannot be built.
    """
    torch.set_num_threads(1)
    device = choose_device("auto", "device")
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"sampler / trainer on {machine}, torch {torch.__version__}: |ratio - 1| of each {level}, over {decisions} decisions\n")
    print(f"{'policy':18}{'sampler / trainer':32}{'mean':>10}{'99 %':>10}{'KL':>10}{'bound':>10}")
    measured: dict[str, Any] = {}
    for title, policy_name, own in TINY if name is None else [(name, name, settings)]:
        policy = build(policy_name, own, chunk, device, trust)
        found = {str(case): measure(policy, case, decisions, level) for case in CASES if case.sampler == case.trainer == "fp32" or policy.options.LowPrecision}
        for case, metrics in found.items():
            bound = policy.options.mismatch_bound("bf16" if "bf16" in case else "fp32", level, chunk)
            mean, p99, kl = (metrics[f"sampler_mismatch_{part}"] for part in ("mean", "p99", "kl"))
            print(f"{title:18}{case:32}{mean:10.1e}{p99:10.1e}{kl:10.1e}{bound:10.1e}", flush=True)
        measured[title] = found
    write_figures(
        {"version": __version__, "torch": torch.__version__, "machine": machine, "level": level, "decisions": decisions, "measured": measured}, figures
    )
    print(f"\nwrote {figures}")


def build(name: str, settings: Sequence[str], chunk: int, device: torch.device, trust: bool = False) -> Policy:
    """The policy that is measured, with float32 weights. What begins at zero is random, because zeros would hide roundings."""
    config, spaces = policy_on_trial(name, settings, None, chunk, trust)
    if "precision" in options_class(config.name).model_fields:
        config = config.model_copy(update={"options": {**config.options, "precision": "fp32"}})
    torch.manual_seed(SEED)
    policy = make_policy(config, spaces).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    policy.compute_in("fp32", device)
    return policy.to(device)


def measure(policy: Policy, case: Case, decisions: int, level: Level) -> dict[str, float]:
    """The metrics of one case, over so many decisions."""
    observations = _observations(policy, decisions)
    noise = decision_noise(SEED, [(1, ticket, 0) for ticket in range(decisions)], policy.options.noise_shape(policy.spaces, policy.chunk))
    with _weights_that_travelled_in(case.weights, policy), _passes_in(case.sampler, policy):
        acted = _act_in_batches(policy, observations, torch.from_numpy(noise))
    with _passes_in(case.trainer, policy), torch.no_grad():
        trainer = policy.evaluate(observations, acted.actions, acted.trace).logprob
    return mismatch_metrics(ratios(trainer, acted.logprob, torch.ones_like(trainer, dtype=torch.bool), level).executed)


def _observations(policy: Policy, rows: int) -> Observations:
    """Random pixels and states, on the policy's device. Every second observation has the longer instruction."""
    generator, spaces = torch.Generator().manual_seed(SEED), policy.spaces
    images = {camera: torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, generator=generator) for camera, shape in spaces.cameras.items()}
    state, elapsed = torch.randn(rows, spaces.state, generator=generator), torch.rand(rows, generator=generator)
    known = sorted(spaces.instructions, key=len) or [""]
    return Observations(images, state, elapsed, [(known[0], known[-1])[row % 2] for row in range(rows)]).to(_device(policy))


def _act_in_batches(policy: Policy, observations: Observations, noise: Tensor) -> Decisions:
    """The decisions on all observations, in BATCHES."""
    device, parts, waiting = _device(policy), [], list(range(len(observations)))
    for size, most in itertools.cycle(BATCHES):
        real, waiting = waiting[:most], waiting[most:]
        if not real:
            break
        rows = real + [0] * (size - len(real))
        acted = policy.act(rows_of(observations, rows), noise[rows].to(device), torch.ones(size, dtype=torch.bool, device=device))
        trace = {name: tensor[: len(real)] for name, tensor in acted.trace.items()}
        parts.append(Decisions(acted.actions[: len(real)], acted.logprob[: len(real)], acted.value[: len(real)], trace))
    actions, logprob, value = (torch.cat([getattr(part, name) for part in parts]) for name in ("actions", "logprob", "value"))
    return Decisions(actions, logprob, value, {name: torch.cat([part.trace[name] for part in parts]) for name in parts[0].trace})


@contextmanager
def _passes_in(number_format: Format, policy: Policy) -> Iterator[None]:
    before, policy.precision = policy.precision, number_format
    try:
        yield
    finally:
        policy.precision = before


@contextmanager
def _weights_that_travelled_in(number_format: Format, policy: Policy) -> Iterator[None]:
    """The policy has the weights that generators get: with bf16, matrices are rounded, vectors and scalars are not."""
    matrices = [tensor for tensor in policy.published().values() if tensor.dim() > 1 and tensor.dtype == torch.float32] if number_format == "bf16" else []
    exact = [tensor.clone() for tensor in matrices]
    try:
        for tensor in matrices:
            tensor.copy_(tensor.bfloat16())
        yield
    finally:
        for tensor, copied in zip(matrices, exact, strict=True):
            tensor.copy_(copied)


def _device(policy: Policy) -> torch.device:
    return next(policy.parameters()).device
