"""Delays on purpose: a simulator is made as slow and as uneven as a robot, or as a simulator on another machine.

simulators/delayed.py draws the delays of tickets. Invariant: a delay is a formula of a number that `random.Random.random` has drawn. Python promises that this
number is the same in all of its versions, so an interpreter of another version has the same delays.
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from rlvla3.config.section import Number, PositiveFloat, Section, Seed

if TYPE_CHECKING:
    from statistics import NormalDist

LONGEST_S = 1_000_000

DelaySeconds = Annotated[float, Field(ge=0, le=LONGEST_S), Number]

Distribution = Literal["constant", "uniform", "exponential", "lognormal"]

RARELY = 1e-4
"""Of all delays, so large a share is longer than `Delay.rare`."""

POINTS = 20_000
"""A mean without a formula is taken over so many quantiles."""

_LAST = 1 - 2**-53
"""The largest share of a distribution that is drawn. Its quantile is finite."""


class Delay(Section):
    """How long something is delayed, drawn anew each time. In a recipe a number of seconds is enough for a constant delay: `step: 0.05`."""

    distribution: Distribution = "constant"
    """`constant`: always `mean_s`. `uniform`: from `least_s` to as far above the mean. `exponential` and `lognormal`: most delays are short and a few are long;
    `sigma` says how uneven a lognormal delay is."""

    mean_s: DelaySeconds = 0.0
    """Seconds. The mean of the distribution. With 0 there is no delay."""

    least_s: DelaySeconds = 0.0
    """Seconds. No delay is shorter. It is a part of `mean_s`."""

    most_s: DelaySeconds | None = None
    """Seconds. What is longer is cut to this, so the mean becomes a little smaller than `mean_s`. `null` means no limit."""

    sigma: Annotated[PositiveFloat, Field(le=5)] = 0.5
    """The standard deviation of the logarithm of a lognormal delay, without its `least_s`. 0.5 is uneven, 1 is very uneven."""

    share: Annotated[float, Field(gt=0, le=1), Number] = 1.0
    """The share of steps, of resets or of shards that are delayed. With 0.01, one in a hundred is delayed, and the others are not at all."""

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, given: Any) -> Any:
        return {"mean_s": given} if isinstance(given, (int, float)) else given

    @model_validator(mode="after")
    def _check(self) -> Delay:
        given = self.model_fields_set
        if given and "mean_s" not in given:
            raise ValueError(f"{sorted(given)[0]} is set and mean_s is not, so nothing would be delayed: set mean_s too, in seconds")
        if self.least_s > self.mean_s:
            raise ValueError(f"least_s={self.least_s:g} is more than mean_s={self.mean_s:g}, and the shortest delay is a part of the mean: set mean_s larger")
        if self.most_s is not None and self.most_s < self.least_s:
            raise ValueError(f"most_s={self.most_s:g} is less than least_s={self.least_s:g}: set most_s larger")
        for key, value, users in (("least_s", self.least_s, ("uniform", "exponential", "lognormal")), ("sigma", self.sigma, ("lognormal",))):
            if self.distribution not in users and value != type(self).model_fields[key].default:
                raise ValueError(f"{key}={value:g} says nothing of a {self.distribution} delay: leave it out, or set distribution to {' or '.join(users)}")
        return self

    @property
    def is_none(self) -> bool:
        return self.mean_s == 0

    def quantile(self, share: float) -> float:
        """The delay in seconds that this `share` of all delays, in [0, 1), does not exceed."""
        share = (share - (1 - self.share)) / self.share
        if share < 0 or self.is_none:
            return 0.0
        above, share = self.mean_s - self.least_s, min(share, _LAST)
        match self.distribution:
            case "constant":
                extra = above
            case "uniform":
                extra = 2 * above * share
            case "exponential":
                extra = -above * math.log1p(-share)
            case "lognormal":
                extra = above * math.exp(self.sigma * _normal().inv_cdf(max(share, 1 - _LAST)) - self.sigma**2 / 2)
        seconds = self.least_s + extra
        return min(seconds, LONGEST_S if self.most_s is None else self.most_s)

    def rare(self, of: int = 1) -> float:
        """Seconds that the longest of so many delays exceeds only once in 10,000 times that one is delayed (`share`)."""
        return self.quantile((1 - RARELY * self.share) ** (1 / of))

    def mean(self, of: int = 1) -> float:
        """The mean in seconds of the longest of so many delays, with all that are not delayed (`share`) and with the cut at `most_s`."""
        return self.share * self.mean_s if self.most_s is None and of == 1 else _mean(self, of)


class DelayConfig(Section):
    """Delays on purpose: a simulator takes longer than it needs, as slow robots and stragglers do. The delays are real: the shard sleeps.

    A ticket has the same delays in every mode, in every process and after every rerun. `rlvla3 rehearse` and `rlvla3 plan` know them too.
    """

    step: Delay = Delay()
    """Of each environment step. The environments of one shard step together, so all of them wait for the slowest one."""

    reset: Delay = Delay()
    """Of each reset."""

    shard: Delay = Delay()
    """Added to each step of a shard, always the same for one shard: some shards are slower than others all the time. The shards of a simulator are spread
    evenly over the distribution. So with 8 shards and `share: 0.125`, exactly one is slow."""

    seed: Seed = 0
    """Other seeds give other delays with the same distributions."""

    @property
    def is_none(self) -> bool:
        return self.step.is_none and self.reset.is_none and self.shard.is_none

    def of_shards(self, count: int) -> list[float]:
        """Seconds that are added to each step of each shard, where a simulator has so many. They are spread evenly over the distribution, in random order."""
        if self.shard.is_none:
            return [0.0] * count
        return [self.shard.quantile((place + 0.5) / count) for place in random.Random(f"{self.seed} shards").sample(range(count), count)]

    def fault(self, shards: int, slots: int, chunk: int, timeout_s: float) -> str | None:
        """What would make a shard look as if it hung. shards: how many there are. slots: environments of a shard. chunk: actions per decision. None if nothing
        does."""
        slowest = max(self.of_shards(shards))
        steps = (chunk - 1) * self.step.mean(slots) + self.step.rare(slots) + chunk * slowest
        together = f" in {slots} slots, which wait for the slowest one," if slots > 1 else ""
        for call, seconds in {"a reset": self.reset.rare(), f"a chunk of {chunk} steps{together}": steps}.items():
            if seconds >= timeout_s:
                longer = f"set timeout_s={2 * math.ceil(seconds)}, or " if 2 * math.ceil(seconds) <= LONGEST_S else ""
                return (
                    f"delay may make {call} take {seconds:.3g} s, and a shard counts as hung after timeout_s={timeout_s:g}: "
                    f"{longer}make the delays smaller, for example with most_s"
                )
        return None


@cache
def _mean(delay: Delay, of: int) -> float:
    """The longest of n draws does not exceed a quantile q with probability q^n."""
    return sum(delay.quantile(((number + 0.5) / POINTS) ** (1 / of)) for number in range(POINTS)) / POINTS


@cache
def _normal() -> NormalDist:
    from statistics import NormalDist  # here: its import takes longer than those of the whole file, and few runs need it

    return NormalDist()
