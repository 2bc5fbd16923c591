"""The limit of open files: every worker takes some of the process that supervises it, and a usual limit of 1024 is reached with a hundred workers."""

from __future__ import annotations

import resource

from rlvla3.errors import RecipeError

FOR_THE_RUN, FOR_A_WORKER = 80, 8
"""Open files of a coordinator: for itself, and for each worker. Measured with 2 and 6 shards: 51 and 75, of which 6 for each shard."""


def allow_open_files(workers: int) -> None:
    """Let this process supervise so many workers: raise its own limit where the system allows it. Raises RecipeError where the system does not."""
    needed = FOR_THE_RUN + FOR_A_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < needed:
        if resource.RLIM_INFINITY != hard < needed:
            raise RecipeError(
                f"{workers} workers need about {needed} open files, and this process may have {hard} at most: raise the limit with `ulimit -n {needed}`, "
                f"or lower simulator.shards"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
