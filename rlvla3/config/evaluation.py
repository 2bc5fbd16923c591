"""The settings of evaluation."""

from __future__ import annotations

from rlvla3.config.section import NonNegative, Positive, Section


class EvaluationConfig(Section):
    """Measures success without exploration noise, on initial states that no run trains on."""

    episodes: Positive = 96
    """Episodes in total. The tasks take turns."""

    seed: NonNegative = 0
    """Selects the initial states. Runs with the same value are evaluated on the same states, whatever the seed of the run."""

    videos: NonNegative = 2
    """How many episodes of each task are kept as videos."""

    before: bool = True
    """Whether training evaluates at its start."""

    after: bool = True
    """Whether training evaluates at its end."""
