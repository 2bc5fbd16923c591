"""The names of a run's workers, as they stand in the table, the logs, the trace and the summary."""

TRAINER, WEIGHTS = "trainer", "weights"
"""WEIGHTS: the sender of versions on the trainer's host, or a host's relay that receives them and passes them on."""


def shard_name(shard: int) -> str:
    return f"shard {shard}"


def generator_name(generator: int) -> str:
    return f"generator {generator}"


def trainer_name(rank: int) -> str:
    """Rank 0 is called `trainer`; further ranks carry their number."""
    return TRAINER if rank == 0 else f"{TRAINER} {rank}"


BAD_ANSWER = "bad-answer.npz"
"""What the name of a file ends with that reproduces a bad answer of a policy."""
