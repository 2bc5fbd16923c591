"""Flow matching as a stochastic policy: some denoising steps are Gaussian, so chunks have a log-prob that reinforcement learning can use.

Time t runs from 1 (noise) to 0 (action): x_t = t noise + (1 - t) action. The model computes the velocity v = noise - action. A denoising step is x - v / K
(Black et al., "pi_0", arXiv 2410.24164). Without further noise, the log-prob of a chunk is not tractable. Three methods add noise:

- last_step: a Gaussian around the last step only. `evaluate` runs the earlier steps again from the recorded noise, with gradient through all of them;
- flow_noise: a Gaussian around every step, with fixed or learned deviation (Flow-Noise of "pi_RL", arXiv 2510.25889);
- flow_sde: every step is a step of the stochastic differential equation with the same marginals as the flow (Flow-SDE of the same paper).

One mechanism covers all three. A chain of points leads from noise to action. It is cut into transitions. A transition starts at a recorded point, makes any
number of plain steps, then makes one Gaussian step to the next recorded point. last_step is one transition of K steps. flow_noise and flow_sde are K
transitions of one step. With `steps: one` they are a single transition at a random place, and all other steps are plain.

The noise of a chunk's actions is correlated: C = rho 11' + (1 - rho) I = L L'. So a chunk explores as one smooth movement. Log-densities are per action,
each given the actions before it: z = L^-1 (x - mean) / std is independent standard normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from rlvla3.policies.heads import ActionHead, Likelihood, Model, Sample
from rlvla3.policies.options import FlowOptions


class FlowHead(ActionHead):
    """Chunks by denoising, with log-probs. The model's outputs are velocities.

    features: E, the width of the features that give the learned noise. together: whether `evaluate` computes all noisy steps of a chunk in one call of the
    model. That is faster where calls are small. Step by step, each call has the shapes that it had in `sample`, so both agree to the last bit.
    """

    factor: Tensor
    inverse: Tensor
    log_diagonal: Tensor

    def __init__(self, options: FlowOptions, chunk: int, action_size: int, features: int, together: bool = True) -> None:
        super().__init__()
        self.together = together
        self.options, self.outputs, self.K = options, action_size, options.denoising_steps
        self.plain_steps = self.K - 1 if options.method == "last_step" else 0
        self.noise_network = None
        if options.noise == "learned":
            self.noise_network = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), last := nn.Linear(64, action_size))
            nn.init.zeros_(last.weight)  # the deviation starts in the middle of its range, for every input
        rho = options.correlation
        factor = torch.linalg.cholesky(torch.full((chunk, chunk), rho) + (1 - rho) * torch.eye(chunk))
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("inverse", torch.linalg.inv(factor), persistent=False)
        self.register_buffer("log_diagonal", factor.diagonal().log()[:, None], persistent=False)

    def sample(self, model: Model, noise: Tensor, explore: Tensor) -> Sample:
        explore = explore.view(-1, 1, 1, 1)
        drawn = self._drawn_step(noise) if self.options.steps == "one" else None
        x = noise[:, :1].to(self.factor)
        points, logprob, seen = [x], torch.zeros_like(x), []
        for k in range(self.K):
            step = self._steps(x, k, 1)
            if drawn is not None:  # in `evaluate` each decision has a step of its own: the shapes must be the same
                step = step.repeat(len(x), 1)
            velocity, features = model(x, self._time(step))
            plain = x - velocity / self.K
            if k < self.plain_steps:
                x = plain
                continue
            mean, std = self._gaussian(x, velocity, features, step)
            disturbance = noise[:, 1 + k if self.options.noise_everywhere else 1, None].to(x)
            here = True if drawn is None else (drawn == k).view(-1, 1, 1, 1)
            x = torch.where(explore & here, mean + std * (self.factor @ disturbance), plain)
            logprob = logprob + self.log_density(x, mean, std) * here
            points.append(x)
            seen.append(features)
        chain, features = torch.cat(points, 1), torch.cat(seen, 1)
        if drawn is None:
            return Sample(x[:, 0], logprob[:, 0], {"chain": chain}, features.mean(1))
        rows = torch.arange(len(chain), device=chain.device)
        return Sample(x[:, 0], logprob[:, 0], _transition(chain, drawn), features[rows, drawn])

    def evaluate(self, model: Model, trace: Mapping[str, Tensor]) -> Likelihood:
        chain = trace["chain"].to(self.factor)
        start, end = chain[:, :-1], chain[:, 1:]
        steps = trace["step"][:, None].to(start) if "step" in trace else self._steps(start, 0, start.shape[1])
        size = start.shape[1] if self.together else 1
        logprob, entropy, seen = torch.zeros_like(end[:, 0]), torch.zeros_like(end[:, 0]), []
        for part in zip(start.split(size, 1), end.split(size, 1), steps.split(size, 1), strict=True):
            log_density, spread, features = self._likelihood(model, *part)
            logprob, entropy = logprob + log_density.sum(1), entropy + spread.sum(1)
            seen.append(features)
        return Likelihood(logprob, entropy, torch.cat(seen, 1).mean(1))

    def _likelihood(self, model: Model, x: Tensor, end: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log-density and the entropy of transitions from x to end [B, M, C, A], and the features. step [1 or B, M]: at which step they start."""
        for _ in range(self.plain_steps):
            x = x - model(x, self._time(step))[0] / self.K
            step = step + 1
        velocity, features = model(x, self._time(step))
        mean, std = self._gaussian(x, velocity, features, step)
        entropy = std.log() + self.log_diagonal + 0.5 * math.log(2 * math.pi * math.e)
        return self.log_density(end, mean, std), entropy.expand_as(mean), features

    def clone_loss(self, model: Model, actions: Tensor, generator: torch.Generator, counted: Tensor | None = None) -> Tensor:
        """Flow matching at `options.samples` random times for each chunk. All of them use one encoding of the observation."""
        shape = (len(actions), self.options.samples)
        noise = torch.randn(*shape, *actions.shape[1:], generator=generator, device=generator.device).to(actions)
        # Times near the noise are drawn more often: there the velocity decides which action results.
        time = torch.rand(shape, generator=generator, device=generator.device).to(actions) ** self.options.time_exponent * 0.999 + 0.001
        share = time[..., None, None]
        velocity, _ = model(share * noise + (1 - share) * actions[:, None], time)
        target = noise - actions[:, None]
        return mse_loss(velocity, target) if counted is None else mse_loss(velocity[..., counted], target[..., counted])

    def log_density(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """The log-density of each action and dimension of chunks x [..., C, A], given the earlier actions of the chunk."""
        z = self.inverse @ ((x - mean) / std)
        return -0.5 * z * z - std.log() - self.log_diagonal - 0.5 * math.log(2 * math.pi)

    def _gaussian(self, x: Tensor, velocity: Tensor, features: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian of the noisy steps `step` [1 or B, M] from x: its mean [B, M, C, A] and its deviation (broadcastable to the mean)."""
        if self.options.method == "flow_sde":
            return self._sde(x, velocity, step[..., None, None])
        mean = x - velocity / self.K
        if self.noise_network is None:
            return mean, x.new_full((1, 1, 1, 1), float(self.options.noise))
        low, high = (math.log(bound) for bound in self.options.noise_range)
        share: Tensor = (torch.tanh(self.noise_network(features)) + 1) / 2
        return mean, (low + (high - low) * share).exp()

    def _sde(self, x: Tensor, velocity: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """One Euler-Maruyama step of Flow-SDE. x0, x1: the action and the noise that the velocity points to; d = 1 / K; s = a sqrt(t / (1 - t)).

            mean = x0 (1 - (t - d)) + x1 (t - d - s^2 d / (2 t))        std = s sqrt(d)

        At t = 1 the denominator of s would be 0. There it is the denominator of the next step.
        """
        d, t = 1 / self.K, self._time(step)
        before_noise = torch.where(step == 0, torch.full_like(t, d), 1 - t)
        sigma = float(self.options.noise) * (t / before_noise).sqrt()
        action, noise = x - velocity * t, x + velocity * (1 - t)
        return action * (1 - (t - d)) + noise * (t - d - sigma**2 * d / (2 * t)), sigma * math.sqrt(d)

    def _time(self, step: Tensor) -> Tensor:
        """The time t of a step, rounded once. Step 0 is at t = 1. (Models turn time into angles of up to 1571, where a last digit is seen.)"""
        return (1 - step.double() / self.K).to(step)

    def _steps(self, x: Tensor, first: int, count: int) -> Tensor:
        """`count` step numbers from `first` on, [1, count], the same for every decision, with the dtype and on the device of x."""
        return torch.arange(first, first + count, dtype=x.dtype, device=x.device)[None]

    def _drawn_step(self, noise: Tensor) -> Tensor:
        """The one noisy step of each decision, int32 [B]. It is uniform, and computed from the first number of the last draw of `noise`."""
        uniform: Tensor = torch.special.ndtr(noise[:, -1, 0, 0].double())
        return (uniform * self.K).int().clamp(max=self.K - 1)


def _transition(chain: Tensor, step: Tensor) -> dict[str, Tensor]:
    """The trace of a chain [B, K + 1, C, A] that has noise only in `step` [B]: the points before and after that step."""
    rows = torch.arange(len(chain), device=chain.device)
    return {"chain": torch.stack([chain[rows, step], chain[rows, step + 1]], 1), "step": step}
