"""Flow matching as a policy that reinforcement learning can improve: denoising with Gaussian steps, whose log-prob is known.

Time runs from t = 1, noise, to t = 0, the action: x_t = t noise + (1 - t) action, the model gives the velocity v = noise - action, and a denoising
step is x - v / K (Black et al., "pi_0", arXiv 2410.24164). Without noise a chunk has no tractable log-prob; the three methods add some:

- last_step: a Gaussian around the last step alone. The steps before it are run again from the recorded noise, with gradient through all of them;
- flow_noise: a Gaussian around every step, of fixed or learned deviation (Flow-Noise of "pi_RL", arXiv 2510.25889);
- flow_sde: every step is one of the stochastic differential equation with the flow's own marginals (Flow-SDE of the same paper).

All are one mechanism. A chain of points leads from noise to action, cut into transitions: a transition sets out from a recorded point, takes any
number of plain steps, then one Gaussian step that arrives at the next recorded point. last_step is one transition of K steps; flow_noise and flow_sde
are K transitions of one step, or, with `steps: one`, a single one at a random place, all other steps being plain.

The noise of a chunk's actions is correlated, C = rho 11' + (1 - rho) I with C = L L', so that a chunk explores as one movement and not as jitter.
Log-densities are kept per action, each given the actions before it: z = L^-1 (x - mean) / std is independent standard normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from rlvla3.policies.heads import ActionHead, Model, Sample
from rlvla3.policies.options import FlowOptions


class FlowHead(ActionHead):
    """Chunks by denoising, with log-probs. The model answers with velocities. features: E, what the learned noise is computed from."""

    factor: Tensor
    inverse: Tensor
    log_diagonal: Tensor

    def __init__(self, options: FlowOptions, chunk: int, action_size: int, features: int) -> None:
        super().__init__()
        self.options, self.outputs, self.K = options, action_size, options.denoising_steps
        self.plain_steps = self.K - 1 if options.method == "last_step" else 0
        self.noise_network = None
        if options.noise == "learned":
            self.noise_network = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), last := nn.Linear(64, action_size))
            nn.init.zeros_(last.weight)  # begin in the middle of the range, everywhere
        rho = options.correlation
        factor = torch.linalg.cholesky(torch.full((chunk, chunk), rho) + (1 - rho) * torch.eye(chunk))
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("inverse", torch.linalg.inv(factor), persistent=False)
        self.register_buffer("log_diagonal", factor.diagonal().log()[:, None], persistent=False)

    def sample(self, model: Model, noise: Tensor, explore: Tensor) -> Sample:
        explore = explore.view(-1, 1, 1, 1)
        drawn = self._drawn_step(noise) if self.options.steps == "one" else None
        x = noise[:, :1].to(self.factor)
        points, logprob = [x], torch.zeros_like(x)
        for k in range(self.K):
            step = self._steps(x, k)
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
        chain = torch.cat(points, 1)
        return Sample(x[:, 0], logprob[:, 0], {"chain": chain} if drawn is None else _transition(chain, drawn))

    def evaluate(self, model: Model, trace: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        chain = trace["chain"].to(self.factor)
        x = chain[:, :-1]
        step = trace["step"][:, None].to(x) if "step" in trace else self._steps(x, *range(x.shape[1]))
        for _ in range(self.plain_steps):
            x = x - model(x, self._time(step))[0] / self.K
            step = step + 1
        velocity, features = model(x, self._time(step))
        mean, std = self._gaussian(x, velocity, features, step)
        entropy = std.log() + self.log_diagonal + 0.5 * math.log(2 * math.pi * math.e)
        return self.log_density(chain[:, 1:], mean, std).sum(1), entropy.expand_as(mean).sum(1)

    def clone_loss(self, model: Model, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Flow matching at `options.samples` random times of each chunk, which share what the model has seen of its observation."""
        shape = (len(actions), self.options.samples)
        noise = torch.randn(*shape, *actions.shape[1:], generator=generator, device=generator.device).to(actions)
        # More often near the noise, where the velocity decides which way to go.
        time = torch.rand(shape, generator=generator, device=generator.device).to(actions) ** 0.7 * 0.999 + 0.001
        share = time[..., None, None]
        velocity, _ = model(share * noise + (1 - share) * actions[:, None], time)
        return mse_loss(velocity, noise - actions[:, None])

    def log_density(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """The log-density of each action and dimension of chunks x [..., C, A], given the actions before it in the chunk."""
        z = self.inverse @ ((x - mean) / std)
        return -0.5 * z * z - std.log() - self.log_diagonal - 0.5 * math.log(2 * math.pi)

    def _gaussian(self, x: Tensor, velocity: Tensor, features: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, M, C, A] and standard deviation (broadcastable to it) of where the noisy steps `step` [1 or B, M] lead from x."""
        if self.options.method == "flow_sde":
            return self._sde(x, velocity, step[..., None, None])
        mean = x - velocity / self.K
        if self.noise_network is None:
            return mean, x.new_full((1, 1, 1, 1), float(self.options.noise))
        low, high = (math.log(bound) for bound in self.options.noise_range)
        share: Tensor = (torch.tanh(self.noise_network(features)) + 1) / 2
        return mean, (low + (high - low) * share).exp()

    def _sde(self, x: Tensor, velocity: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """One Euler-Maruyama step of Flow-SDE: with x0, x1 the action and the noise that the velocity points to, d = 1 / K and s = a sqrt(t / (1 - t)),

        mean = x0 (1 - (t - d)) + x1 (t - d - s^2 d / (2 t)), std = s sqrt(d). At t = 1, where s has no limit, its denominator is the next step's.
        """
        d, t = 1 / self.K, self._time(step)
        before_noise = torch.where(step == 0, torch.full_like(t, d), 1 - t)
        sigma = float(self.options.noise) * (t / before_noise).sqrt()
        action, noise = x - velocity * t, x + velocity * (1 - t)
        return action * (1 - (t - d)) + noise * (t - d - sigma**2 * d / (2 * t)), sigma * math.sqrt(d)

    def _time(self, step: Tensor) -> Tensor:
        """t, from 1 at step 0."""
        time: Tensor = 1 - step / self.K
        return time

    def _steps(self, x: Tensor, *steps: int) -> Tensor:
        """Step numbers [1, M], the same for every decision, in x's type and place."""
        return torch.tensor([steps], dtype=x.dtype, device=x.device)

    def _drawn_step(self, noise: Tensor) -> Tensor:
        """The one noisy step of each decision, int32 [B], uniform, from the first number of its last draw."""
        uniform: Tensor = torch.special.ndtr(noise[:, -1, 0, 0].double())
        return (uniform * self.K).int().clamp(max=self.K - 1)


def _transition(chain: Tensor, step: Tensor) -> dict[str, Tensor]:
    """The trace of a chain [B, K + 1, C, A] with noise in `step` [B] alone: the two points around it."""
    rows = torch.arange(len(chain), device=chain.device)
    return {"chain": torch.stack([chain[rows, step], chain[rows, step + 1]], 1), "step": step}
