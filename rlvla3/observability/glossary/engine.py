"""The glossary of how a run goes: speed, staleness, tickets, the time of workers, batches of inference, and what each line holds."""

from __future__ import annotations

from rlvla3.observability.glossary.metric import Group, Metric

SHARE, SECONDS, MILLISECONDS, BYTES = "share from 0 to 1", "seconds", "milliseconds", "bytes"
EPISODES, TICKETS = "episodes", "tickets"


def _busy(stage: str, meaning: str, otherwise: str = "") -> Metric:
    return Metric(meaning, SHARE, f"update.workers.busy.{stage}", otherwise=otherwise)


def _idle(cause: str, meaning: str, normal: str = "", otherwise: str = "") -> Metric:
    return Metric(meaning, SHARE, f"update.workers.idle.{cause}", f"idle/{{kind}}/{cause}", normal=normal, otherwise=otherwise)


def _batching(name: str, unit: str, meaning: str) -> Metric:
    return Metric(meaning, unit, f"update.batching.{name}", f"batching/{name}")


LINES = Group(
    "Each line",
    "A line of metrics.jsonl tells of an update, an evaluation, a cloning step, a phase or a notice.",
    (
        Metric("Which of these it tells of.", line="[{event}.]event"),
        Metric("The time since the run began. A run that goes on counts on from its last line.", SECONDS, "[{event}.]seconds"),
        Metric("The phase that begins: start, demonstrate, clone, evaluate or train.", line="phase.phase"),
        Metric("The steps, episodes or updates of the phase; 0 where unknown.", "as the phase counts", "phase.total"),
        Metric(
            "A sentence for the user: what was lost, kept or interrupted.",
            line="notice.text",
            normal="A few, of checkpoints.",
            otherwise="Read it: it says what to do.",
        ),
    ),
)

SPEED = Group(
    "Speed and staleness",
    "The x axis of all curves of training is the update.",
    (
        Metric("The number of updates so far. It is the version of the weights.", "updates", "update.update"),
        Metric("The updates of the whole run: training.updates.", "updates", "update.updates"),
        Metric("Environment steps of all episodes that were trained on so far.", "environment steps", "update.environment_steps", "engine/environment_steps"),
        Metric(
            "Environment steps for each second of training, since training began.",
            "environment steps per second",
            "update.throughput",
            "engine/throughput",
            "environment steps / seconds of training (RL-VLA3, equation 2)",
            "Steady after the first updates.",
            "If it is low, look at idle/{kind}/{cause}: it says who waits for what.",
        ),
        Metric("The time since training began, earlier parts of the run included.", SECONDS, "update.wall_seconds"),
        Metric("Episodes of this staleness: the update's number less the oldest version that decided in the episode.", EPISODES, "update.staleness.{lag}"),
        Metric(
            "The mean staleness of the episodes of the update.",
            "updates",
            "",
            "engine/staleness",
            "sum(lag * episodes) / episodes",
            "Between 0 and engine.max_staleness.",
            "If it is near engine.max_staleness all the time, the trainer is the bottleneck: learner/effective_sample_size says whether that hurts.",
        ),
    ),
)

TICKETS_GROUP = Group(
    "Tickets",
    "A ticket is the right to run one episode. The numbers count from the start of the run.",
    (
        Metric("Tickets that were given to a shard, those of later updates included.", TICKETS, "update.tickets.issued"),
        Metric("Tickets of finished updates.", TICKETS, "update.tickets.trained"),
        Metric(
            "Tickets that were issued again, because their simulator was lost.",
            TICKETS,
            "update.tickets.rerun",
            "tickets/rerun",
            normal="0, or a few in a long run.",
            otherwise="Read the notices and logs/: simulators end or hang. Nothing is lost, but it costs time.",
        ),
        Metric(
            "Tickets without an episode, because they lost their simulators again and again (engine.max_set_aside).",
            TICKETS,
            "update.tickets.set_aside",
            "tickets/set_aside",
            normal="0.",
            otherwise="The simulator fails in some initial states: the notices name them.",
        ),
    ),
)

WORKERS = Group(
    "Time of workers",
    "Shares of the time since the last update. A worker is always busy with one stage or waits for one thing, so its shares sum to 1. In metrics.jsonl each "
    "worker has its own; a curve is the mean over the workers of a kind: shard, generator, trainer.",
    (
        Metric("The name of a worker.", line="update.workers.name"),
        Metric(
            "The share of time in which the workers of a kind are busy.",
            SHARE,
            "",
            "busy/{kind}",
            "sum of the shares of its stages",
            "One kind is near 1: it is the bottleneck.",
            "If none is, look at idle/{kind}/{cause}, and raise engine.max_staleness or simulator.shards.",
        ),
        _busy("start", "The process starts: imports, the simulator, the policy."),
        _busy("reset", "Environments are reset.", "If it is large, episodes are short or resets slow: use more shards."),
        _busy("simulate", "Environments step.", "If shards are busy with it all the time, simulation is the bottleneck: use more shards or more CPU cores."),
        _busy("infer", "The policy decides.", "If a generator is busy with it all the time, inference is the bottleneck: raise engine.generators."),
        _busy("load_weights", "A generator takes a newer version of the weights."),
        _busy("offload", "Tensors move between a device and host memory (engine.offload)."),
        _busy(
            "train",
            "The trainer's passes and optimizer steps.",
            "If the trainer is busy with it all the time, training is the bottleneck: lower training.epochs.",
        ),
        _busy("fit_critic", "Extra passes of the critic.", "If it is large, lower training.critic.epochs or training.critic.replay."),
        _busy("publish", "The trainer writes a version into the weight plane."),
        _busy("clone", "A cloning step."),
        _busy("checkpoint", "A checkpoint is written.", "If it is large, raise training.checkpoint_every, or write to a faster disk."),
        _busy("send", "A host sends weights to another host."),
        _busy("receive", "A host receives weights."),
        _busy("overhead", "Between two stages: the engine's own work.", "If it is large, the machine has too few CPU cores for its processes."),
        _idle(
            "ticket", "A shard waits for a ticket.", "Small.", "Admission holds shards back: raise engine.max_staleness or training.batch, or use fewer shards."
        ),
        _idle("decision", "A shard waits for the policy.", "Larger than 0.", "If it is near 1, inference is the bottleneck: raise engine.generators."),
        _idle("requests", "A generator waits for observations.", "Larger than 0.", "If it is near 1, simulation is the bottleneck: raise simulator.shards."),
        _idle(
            "trajectories",
            "The trainer waits for episodes.",
            "Large where simulation or inference is the bottleneck.",
            "Use more shards or generators, or use the time: raise training.epochs.",
        ),
        _idle("ranks", "A rank waits for the others, communication included.", "Small.", "Ranks have unequal work: raise training.batch, or use fewer ranks."),
        _idle("publication", "The trainer waits until the last version has been written.", "Near 0."),
        _idle("version", "A sender or a receiver of weights waits for a version.", "Near 1."),
        _idle("command", "A worker waits to be told what to do, for example during an evaluation.", "Near 0 during training."),
    ),
)

BATCHES = Group(
    "Batches of inference",
    "What generators have chosen with engine.max_batch: auto. In metrics.jsonl each generator has its own; a curve is the mean over generators.",
    (
        _batching("max_batch", "decisions", "B_max, the largest batch. null in metrics.jsonl, and no curve, where there is no limit."),
        _batching("max_wait_ms", MILLISECONDS, "T_max, how long a request waits for others."),
        _batching("inference_of_1_ms", MILLISECONDS, "The measured time of an inference of one decision."),
        _batching("inference_each_ms", MILLISECONDS, "The measured time that each further decision adds."),
        _batching("expected_batch", "decisions", "Decisions in an inference, as the model of the queue expects them."),
        _batching("expected_rate", "decisions per second", "Decisions per second, as the model of the queue expects them."),
    ),
)

MACHINE = Group(
    "The machine",
    "A line of machine.jsonl, every ten seconds or so: how much is used of the cores, the memory and the GPUs that the run may use.",
    (
        Metric("The time since the run began, as in metrics.jsonl.", SECONDS, "machine.seconds"),
        Metric("The cores that the run may use: those that its process is bound to, or the quota of its container.", "cores", "machine.cores"),
        Metric(
            "The mean number of these cores that were busy since the last line.",
            "cores",
            "machine.cores_used",
            normal="Below machine.cores.",
            otherwise="All cores are busy: simulators wait for them. Use fewer shards, or another machine.",
        ),
        Metric("The memory of the machine, or of its control group where that has less.", BYTES, "machine.memory"),
        Metric(
            "The memory that is free.",
            BYTES,
            "machine.memory_left",
            normal="More than 5 % of machine.memory.",
            otherwise="Lower simulator.shards or training.micro_batch.",
        ),
        Metric("What the GPU is called.", line="machine.gpus.name"),
        Metric("The memory of the GPU.", BYTES, "machine.gpus.memory"),
        Metric(
            "The memory of the GPU that is used.",
            BYTES,
            "machine.gpus.memory_used",
            normal="Less than 95 % of machine.gpus.memory.",
            otherwise="Lower training.micro_batch, or set engine.offload.",
        ),
        Metric(
            "The share of time in which the GPU computed. null where its driver does not tell.",
            SHARE,
            "machine.gpus.busy",
            normal="High where inference or training bounds the run.",
            otherwise="`rlvla3 explain RUN_DIR` says what the run waits for.",
        ),
    ),
)

ENGINE: tuple[Group, ...] = (SPEED, TICKETS_GROUP, WORKERS, BATCHES, MACHINE, LINES)
