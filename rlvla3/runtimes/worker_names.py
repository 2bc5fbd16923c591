"""What the workers of a run are called, in the table, the logs and the summary."""

TRAINER, WEIGHTS = "trainer", "weights"
"""WEIGHTS: who sends them from the trainer's host to others, or receives them there and passes them on."""


def shard_name(shard: int) -> str:
    return f"shard {shard}"


def generator_name(generator: int) -> str:
    return f"generator {generator}"


def trainer_name(rank: int) -> str:
    """Rank 0, which is all of the trainer where there is one rank, is called just that."""
    return TRAINER if rank == 0 else f"{TRAINER} {rank}"
