"""What `rlvla3 bench` does: each benchmark by its name. A benchmark is imported only if it is asked for."""

from __future__ import annotations

import argparse

from rlvla3.config import path_of
from rlvla3.observability.progress_line import progress
from rlvla3.observability.trust import check_trust

TELLING = ("gpu", "parity", "fuzz", "chaos", "deaths", "soak", "watched")
"""Benchmarks that say themselves how far they are."""

START_S = 15.0
"""About how long the processes of a benchmark take to start, for the progress that a user is shown."""


def bench(arguments: argparse.Namespace) -> bool:
    """Run the benchmark `arguments.benchmark`. Its figures go into the JSON file `arguments.json`, or, for `parity`, into the folder `arguments.out`.

    Returns whether all is well. Only `fuzz`, `chaos`, `deaths`, `soak` and `watched` can return False."""
    _check_trust(arguments)
    if arguments.benchmark in TELLING:
        return _measure(arguments)
    seconds = (arguments.seconds or 0.0) if arguments.benchmark == "interaction" else 0.0
    with progress(f"bench {arguments.benchmark}", expected_s=seconds and seconds + START_S):
        return _measure(arguments)


def _measure(arguments: argparse.Namespace) -> bool:
    match arguments.benchmark:
        case "interaction":
            from rlvla3.benchmarks import interaction

            interaction.main(arguments.json, arguments.env, arguments.num_envs, arguments.seconds)
        case "batch":
            from rlvla3.benchmarks import batch

            batch.main(arguments.json, arguments.cameras, arguments.size, arguments.batch, arguments.batches)
        case "batching":
            from rlvla3.benchmarks.batching import batching_report

            batching_report.main(arguments.json, arguments.profiles, arguments.grid, arguments.jobs, arguments.real)
        case "ladder":
            from rlvla3.benchmarks import ladder

            ladder.main(arguments.json)
        case "weights":
            from rlvla3.benchmarks.weights import weights_report

            weights_report.main(arguments.json, arguments.megabytes)
        case "reality":
            from rlvla3.benchmarks import reality

            reality.main(arguments.overrides, arguments.json, arguments.profile, arguments.profile_seconds, arguments.updates)
        case "beside" | "ray" | "vector":
            _compare(arguments)
        case "overhead":
            _overhead(arguments)
        case "gpu":
            from rlvla3.benchmarks.gpu import gpu_report

            gpu_report.main(arguments.json, arguments.minutes, arguments.only)
        case "mismatch":
            from rlvla3.benchmarks import mismatch

            mismatch.main(arguments.policy, arguments.overrides, arguments.json, arguments.decisions, arguments.ratio, arguments.chunk, arguments.trust)
        case "fuzz" | "chaos" | "deaths" | "soak" | "watched":
            return _try(arguments)
        case "parity":
            from rlvla3.benchmarks.parity.parity_report import main
            from rlvla3.benchmarks.parity.trials import ParityMeasurement

            runs = (arguments.seeds, arguments.staleness, arguments.corrections)
            main(ParityMeasurement.make(arguments.start, arguments.overrides, arguments.out, *runs, arguments.trust), arguments.measure, arguments.jobs)
    return True


def _compare(arguments: argparse.Namespace) -> None:
    """Measure two sides alternately."""
    pairs, seconds = arguments.pairs, arguments.seconds
    match arguments.benchmark:
        case "beside":
            from rlvla3.benchmarks import beside

            beside.main(arguments.overrides, arguments.json, pairs, seconds)
        case "ray":
            from rlvla3.benchmarks import ray

            ray.main(arguments.json, pairs, seconds)
        case "vector":
            from rlvla3.benchmarks import vector

            vector.main(arguments.overrides, arguments.json, arguments.inference, pairs, seconds, arguments.threads)


def _overhead(arguments: argparse.Namespace) -> None:
    from rlvla3.benchmarks import overhead, own_interpreter

    if arguments.python:
        own_interpreter.main(arguments.simulators, arguments.python, arguments.json, arguments.episodes)
    else:
        overhead.main(arguments.simulators, arguments.json, arguments.episodes)


def _try(arguments: argparse.Namespace) -> bool:
    """Run a benchmark that can fail. Returns whether all is well."""
    if arguments.benchmark == "fuzz":
        from rlvla3.benchmarks.fuzz import fuzz_report

        return fuzz_report.main(arguments.subject, arguments.cases, arguments.seed, arguments.first, arguments.keep, arguments.json)
    if arguments.benchmark == "deaths":
        from rlvla3.benchmarks.chaos import deaths

        return deaths.main(arguments.shards, arguments.every, arguments.windows, arguments.seconds, arguments.json)
    if arguments.benchmark == "watched":
        from rlvla3.benchmarks import watched

        return watched.main(arguments.pairs, arguments.seconds, arguments.num_envs, arguments.json)
    if arguments.benchmark == "soak":
        from rlvla3.benchmarks import soak

        return soak.main(arguments.minutes, arguments.json)
    from rlvla3.benchmarks.chaos import chaos_report

    options = (arguments.minutes, arguments.faults, arguments.seed, arguments.first, arguments.runtime, arguments.only)
    return chaos_report.main(*options, arguments.json)


def _check_trust(arguments: argparse.Namespace) -> None:
    """Ask whether the names in the recipe of a benchmark may be loaded. `mismatch` asks by itself, as it may be given a name."""
    words = [str(arguments.start), *arguments.overrides] if arguments.benchmark == "parity" else getattr(arguments, "overrides", [])
    if arguments.benchmark in ("beside", "parity", "reality", "vector") and words and "=" not in words[0]:
        check_trust(path_of(words[0]), words[1:], arguments.trust)
