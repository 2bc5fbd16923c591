"""What the workers of a run are called, in the table, the logs and the summary."""

TRAINER = "trainer"


def shard_name(shard: int) -> str:
    return f"shard {shard}"


def generator_name(generator: int) -> str:
    return f"generator {generator}"
