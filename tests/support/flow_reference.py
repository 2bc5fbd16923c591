"""Flow policies as their papers write them, one number at a time in float64. Slow, and written without a look at rlvla3/policies/flow.py.

The formulas are those of "pi_RL" (arXiv 2510.25889): Flow-Noise, and Flow-SDE, the Euler-Maruyama step of the stochastic differential equation

    dx = [v + sigma^2 / (2 t) (x + (1 - t) v)] dt + sigma dw,    sigma = a sqrt(t / (1 - t)),    from t = 1 to t = 0

of Liu et al., "Flow-GRPO" (arXiv 2505.05470), whose marginals are those of the flow dx = v dt. At t = 1, 1 - t is taken at the next time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from rlvla3.policies.flow import FlowHead
from rlvla3.policies.options import FlowOptions

Velocity = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(a chunk [H, A], a time) -> (its velocity [H, A], its features [H, E])."""


class SmallModel(nn.Module):
    """A velocity that depends on the whole chunk, on time and on the observation [B, observed]."""

    def __init__(self, horizon: int, size: int, features: int, observed: int = 3) -> None:
        super().__init__()
        self.shape = (horizon, features)
        self.inner, self.outer = nn.Linear(horizon * size + 1 + observed, horizon * features), nn.Linear(features, size)

    def of(self, observation: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The model as a head calls it, for observations [B, observed]."""

        def model(points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
            rows, many = points.shape[:2]
            seen = observation[:, None].expand(rows, many, -1)
            inputs = torch.cat([points.flatten(2), times[..., None].expand(rows, many, 1), seen], -1)
            features = torch.tanh(self.inner(inputs)).unflatten(-1, self.shape)
            return self.outer(features), features

        return model

    def of_one(self, observation: Tensor) -> Velocity:
        """The model for one observation [observed] and one chunk."""

        def velocity(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
            outputs, features = self.of(observation[None])(x[None, None], x.new_full((1, 1), t))
            return outputs[0, 0], features[0, 0]

        return velocity


class Reference:
    """A flow policy with the settings and the noise network of `head`, and with none of its code."""

    def __init__(self, options: FlowOptions, noise_network: nn.Module | None) -> None:
        self.options, self.noise_network, self.K = options, noise_network, options.denoising_steps
        self.times = [1 - k / self.K for k in range(self.K)] + [0.0]

    def mean_and_std(self, velocity: Velocity, x: Tensor, k: int, h: int, a: int) -> tuple[Tensor, Tensor]:
        """The Gaussian of one number of the chunk that step k leads to from x [H, A]."""
        v, features = velocity(x, self.times[k])
        t, d = self.times[k], self.times[k] - self.times[k + 1]
        if self.options.method == "flow_sde":
            to_noise = 1 - (self.times[1] if k == 0 else t)
            sigma = float(self.options.noise) * math.sqrt(t / to_noise)
            drift = v[h, a] + sigma**2 / (2 * t) * (x[h, a] + (1 - t) * v[h, a])
            return x[h, a] - drift * d, x.new_tensor(sigma * math.sqrt(d))
        return x[h, a] - v[h, a] * d, self._deviation(features[h], a)

    def plain(self, velocity: Velocity, x: Tensor, steps: Iterable[int]) -> Tensor:
        """x [H, A] after steps of the flow itself."""
        for k in steps:
            x = x - velocity(x, self.times[k])[0] * (self.times[k] - self.times[k + 1])
        return x

    def log_density(self, velocity: Velocity, x: Tensor, end: Tensor, k: int, chunk: int, dimensions: Iterable[int]) -> Tensor:
        """The log-density of the executed numbers of `end` [H, A] after step k from x, each given the earlier actions: [chunk, dimensions]."""
        rows = []
        for h in range(chunk):
            row = []
            for a in dimensions:
                mean, std = self.mean_and_std(velocity, x, k, h, a)
                z = []
                for earlier in range(h):
                    centre, scale = self.mean_and_std(velocity, x, k, earlier, a)
                    z.append((end[earlier, a] - centre) / scale)
                shift, rest = self.given(z)
                row.append(Normal(mean + std * shift, std * rest).log_prob(end[h, a]))
            rows.append(torch.stack(row))
        return torch.stack(rows)

    def noisy(self, velocity: Velocity, x: Tensor, k: int, noise: Tensor) -> Tensor:
        """The chunk that step k leads to from x, for standard normal noise [H, A]."""
        end = torch.empty_like(x)
        for a in range(x.shape[1]):
            z: list[Tensor] = []
            for h in range(x.shape[0]):
                mean, std = self.mean_and_std(velocity, x, k, h, a)
                shift, rest = self.given(z)
                z.append(shift + rest * noise[h, a])
                end[h, a] = mean + std * z[-1]
        return end

    def given(self, z: list[Tensor]) -> tuple[Tensor | float, float]:
        """Mean and deviation of the next of equally correlated standard normal numbers, given the earlier ones."""
        rho, n = self.options.correlation, len(z)
        if not n:
            return 0.0, 1.0
        weight = rho / (1 + (n - 1) * rho)  # the inverse of a matrix of n ones plus (1 - rho) I, times rho
        return weight * torch.stack(z).sum(), math.sqrt(1 - n * rho * weight)

    def drawn(self, number: float) -> int:
        """The step that a standard normal number draws."""
        return min(int(NormalDist().cdf(number) * self.K), self.K - 1)

    def _deviation(self, features: Tensor, a: int) -> Tensor:
        if self.noise_network is None:
            return features.new_tensor(float(self.options.noise))
        low, high = (math.log(std**2) for std in self.options.noise_range)  # the authors' code: within bounds of the log-variance
        log_variance = low + (high - low) * (torch.tanh(self.noise_network(features)[a]) + 1) / 2
        return (log_variance / 2).exp()


def head_of(options: FlowOptions, horizon: int, size: int, features: int, together: bool = True) -> FlowHead:
    """A head whose noise network, if any, has random weights."""
    head = FlowHead(options, horizon, size, features, together)
    if head.noise_network is not None:
        for parameter in head.noise_network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return head
