"""From a recipe to the parts of its run. Runtimes, planning, checks and benchmarks build every part here, so that each setting is read in one place.

Nothing here starts a process or imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rlvla3.config import EngineConfig, Recipe, Split
from rlvla3.links.rollouts import RolloutSpec
from rlvla3.policies.registry import policy_options
from rlvla3.scheduling.beside import BesideLedger
from rlvla3.scheduling.ledger import Ledger, TicketBook, capacity
from rlvla3.scheduling.limits import FixedLimits, LearnedLimits
from rlvla3.scheduling.streamer import Streamer
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.types import Purpose, Spaces, TicketCounts, Version

EPISODES_A_SLOT = 2
"""Episodes in the data plane for each slot, where nothing is trained: one runs while another one is read."""


def ticket_book(recipe: Recipe, spaces: Spaces | None) -> TicketBook:
    """The tickets that are trained on. Groups share task, seed and initial state. spaces: the common spaces of the run's simulators (None: none is run)."""
    return TicketBook(recipe.mix, recipe.seed, recipe.algorithm.group_size, states=_training_states(recipe, spaces))


def profiling_book(recipe: Recipe, spaces: Spaces) -> TicketBook:
    """The tickets of training, run as evaluation: such an episode may be run at any version."""
    return TicketBook(recipe.mix, recipe.seed, recipe.algorithm.group_size, Purpose.EVALUATE, _training_states(recipe, spaces))


def demonstration_book(recipe: Recipe, spaces: Spaces) -> TicketBook:
    """The tickets that experts demonstrate: every task as often as any other, from the initial states of training."""
    return TicketBook(recipe.mix.even(), recipe.seed, purpose=Purpose.DEMONSTRATE, states=_training_states(recipe, spaces))


def evaluation_book(recipe: Recipe, spaces: Spaces | None) -> TicketBook:
    """The tickets that a policy is measured on: every task as often as any other, and the same initial states for every run. spaces: as in `ticket_book`."""
    states = {task: split.evaluation for task, split in state_splits(recipe, spaces).items()} if spaces else {}
    evaluation = recipe.evaluation
    return TicketBook(recipe.mix.even(), evaluation.seed, purpose=Purpose.EVALUATE, states=states, in_order=evaluation.in_order)


def recording_book(recipe: Recipe, spaces: Spaces) -> TicketBook:
    """The tickets that a policy is recorded on: every task as often as any other, from the initial states of training, and never those of evaluation."""
    return TicketBook(recipe.mix.even(), recipe.seed, purpose=Purpose.RECORD, states=_training_states(recipe, spaces))


def is_due_beside(recipe: Recipe, version: Version) -> bool:
    """Whether `version` is evaluated beside training. The last version is not, where it is evaluated after training."""
    every, last = recipe.evaluation.every, recipe.training.updates
    return every > 0 and version > 0 and version % every == 0 and (version < last or not recipe.evaluation.after)


def beside_ledger(recipe: Recipe, spaces: Spaces | None, version: Version) -> BesideLedger:
    """The evaluation of `version` beside training. With engine.offload, generators have no device while training has it: then training waits for the evaluation
    from the beginning."""
    late_at = version if recipe.engine.offload else version + math.ceil(recipe.evaluation.every / 2)
    return BesideLedger(evaluation_book(recipe, spaces), recipe.evaluation.episodes, beside_capacity(recipe), version, late_at)


def state_splits(recipe: Recipe, spaces: Spaces) -> dict[str, Split]:
    """{task: its initial states of training and of evaluation}, for tasks with a fixed set."""
    configs = {task: config for name, config in recipe.mixed.items() for task in config.share(name).tasks}
    return {task: configs[task].initial_states.split(states.count) for task, states in spaces.initial_states.items()}


def splits_in_words(recipe: Recipe, spaces: Spaces, only_shared: bool = False) -> list[str]:
    """How fixed initial states are shared out, one sentence for the tasks with the same numbers. only_shared: only where training and evaluation share some."""
    alike: dict[str, list[str]] = {}
    for task, split in state_splits(recipe, spaces).items():
        words = f"{len(split.training)} of {spaces.initial_states[task].count} for training, {len(split.evaluation)} for evaluation"
        if split.shared or not only_shared:
            alike.setdefault(words + f"; training has {split.shared} of these too" * bool(split.shared), []).append(task)
    return [f"initial states of {_some(tasks)}: {words}" for words, tasks in alike.items()]


def left_out_in_words(recipe: Recipe, trains: bool) -> list[str]:
    """Which tasks no episode of evaluation has, and no episode of training. trains: whether the recipe is trained."""
    said = []
    episodes, training = recipe.evaluation.episodes, recipe.training
    if left := recipe.mix.even().without_turn(episodes):
        said.append(f"evaluation.episodes={episodes} leaves {len(left)} of {len(recipe.tasks)} tasks out, {_some(left)}: set {len(recipe.tasks)} or more")
    groups = training.updates * (training.batch // recipe.algorithm.group_size)
    if trains and (left := recipe.mix.without_turn(groups)):
        said.append(
            f"training has {groups} groups of tickets and leaves {len(left)} of {len(recipe.tasks)} tasks out, {_some(left)}: set training.updates larger"
        )
    return said


def _some(tasks: Sequence[str]) -> str:
    return tasks[0] + (f" and {len(tasks) - 1} more tasks" if len(tasks) > 2 else f" and {tasks[1]}" if len(tasks) == 2 else "")


def _training_states(recipe: Recipe, spaces: Spaces | None) -> dict[str, Sequence[int]]:
    return {task: split.training for task, split in state_splits(recipe, spaces).items()} if spaces else {}


def training_ledger(
    recipe: Recipe,
    spaces: Spaces | None,
    *,
    version: Version = 0,
    end: Version | None = None,
    order: Sequence[int] | None = None,
    before: TicketCounts | None = None,
) -> Ledger:
    """The ledger of the recipe's training. spaces: as in `ticket_book`. version: the version that the run starts from. end: the version that it ends with
    (None: training.updates). order: of its tickets, where it is not their own (a replay). before: as in `Ledger`."""
    batch = recipe.training.batch
    total = (recipe.training.updates if end is None else end) * batch
    return Ledger(ticket_book(recipe, spaces), batch, recipe.engine.max_staleness, total=total, version=version, order=order, before=before)


def endless_ledger(recipe: Recipe, spaces: Spaces) -> Ledger:
    """The ledger of a training run whose tickets do not run out: a benchmark measures it for as long as it wants."""
    return Ledger(ticket_book(recipe, spaces), recipe.training.batch, recipe.engine.max_staleness)


def make_streamer(recipe: Recipe, *, order: Callable[[int], Sequence[int]] | None = None, rank: int = 0, ranks: int = 1, width: int = 1) -> Streamer:
    """The streamer of one rank of the recipe's trainer. order: of an update, its tickets in the order in which they are to be emitted (a replay); by default
    the order of arrival, or ticket order with training.deterministic. width: how many ranks a micro-batch is for (a rehearsal streams for all at once)."""
    training = recipe.training

    def in_ticket_order(update: int) -> range:
        return range(update * training.batch, (update + 1) * training.batch)

    return Streamer(
        batch=training.batch,
        group_size=recipe.algorithm.group_size,
        steps=training.steps,
        epochs=training.epochs,
        micro_batch=training.micro_batch * width,
        streaming=recipe.engine.streaming,
        seed=recipe.seed,
        order=order or (in_ticket_order if training.deterministic else None),
        rank=rank,
        ranks=ranks,
    )


def make_limits(engine: EngineConfig, training_seconds: Callable[[], float] | None = None) -> FixedLimits:
    """B_max and T_max of a generator. training_seconds: returns how long training has used the generator's device until now. None if it never does."""
    max_wait = math.inf if engine.max_wait_ms is None else engine.max_wait_ms / 1000
    return LearnedLimits(max_wait, training_seconds) if engine.max_batch == "auto" else FixedLimits(engine.max_batch, max_wait)


def bootstraps(recipe: Recipe) -> bool:
    """Whether the last observation of a training episode that a time limit cut is valued."""
    return recipe.algorithm.bootstrap and recipe.algorithm.has_critic


def rollout_spec(recipe: Recipe, capacity: int, beside: int = 0) -> RolloutSpec:
    """The shape of a recipe's data plane for `capacity` episodes, and for `beside` more of an evaluation beside training."""
    spaces = common_spaces(recipe)
    return RolloutSpec(spaces, recipe.policy.chunk, policy_options(recipe.policy, spaces).trace(spaces, recipe.policy.chunk), capacity, beside)


def collecting_capacity(recipe: Recipe) -> int:
    """Episodes in the data plane where nothing is trained."""
    return EPISODES_A_SLOT * recipe.environments


def training_capacity(recipe: Recipe) -> int:
    """Episodes in the data plane of a run that trains, and evaluates too."""
    return max(capacity(recipe.training.batch, recipe.engine.max_staleness), collecting_capacity(recipe))


def beside_capacity(recipe: Recipe) -> int:
    """Episodes of an evaluation beside training in the data plane of a run that trains."""
    return min(recipe.evaluation.episodes, collecting_capacity(recipe)) if recipe.evaluation.every else 0
