"""The settings of evaluation."""

from __future__ import annotations

from rlvla3.config.section import NonNegative, Positive, Section, Seed


class EvaluationConfig(Section):
    """Measures success without exploration noise. Where a simulator has a fixed set of initial states, evaluation has states of its own
    (`simulator.initial_states`). Where it draws them from seeds, no run trains on the seeds of evaluation."""

    episodes: Positive = 96
    """Episodes in total. The tasks take turns. Where a task has a fixed set of initial states, each state comes equally often, to within one episode. If there
    are fewer episodes than tasks, the run says at its start which tasks are left out."""

    seed: Seed = 0
    """Selects the initial states. Runs with the same value are evaluated on the same states, whatever the seed of the run. Of a fixed set, it selects the
    order."""

    in_order: bool = False
    """Whether each task begins from its fixed initial states in the order of their numbers, as published evaluations do. Otherwise `seed` selects the order. It
    decides which states are evaluated where there are fewer episodes than states."""

    protocol: str | None = None
    """The published protocol of an evaluation, by name, as `rlvla3 eval --protocol NAME` sets it. `rlvla3 eval --protocols` lists them. Where a recipe
    has it, its other settings are kept, and those that differ from the protocol are said. Training takes none."""

    videos: NonNegative = 2
    """How many episodes of each task are kept as videos, in each evaluation."""

    before: bool = True
    """Whether training evaluates at its start."""

    every: NonNegative = 0
    """Training is evaluated beside its rollouts after every so many updates; with 0 it is not. The evaluation uses slots that training leaves idle, and the
    weights of its own version. If it is not over after half of the way to the next one, training waits for it. Each version that is evaluated gets a
    checkpoint. The best one so far is kept in addition to `training.keep_checkpoints`: `checkpoints/best`. While an evaluation runs, each generator holds one
    more version of the trained weights."""

    after: bool = True
    """Whether training evaluates at its end."""
