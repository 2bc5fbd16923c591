"""The words of `rlvla3 bench`: which benchmarks there are, and what each of them may be asked for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rlvla3.argument_types import CHUNK, PROFILE_S, add_start, new_file, new_folder, path, positive, seconds, seconds_or_auto


def add_benchmarks(bench: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    benchmarks = bench.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    interaction = benchmarks.add_parser("interaction", help="the share of the ideal step rate that a training run reaches")
    interaction.add_argument("--env", metavar="MODULE:CLASS", help="any Gymnasium environment class (default: frames at irregular intervals)")
    interaction.add_argument("--num-envs", type=int, default=16, metavar="N", help="environments (default: 16)")
    interaction.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long to measure (default: 30)")
    _add_batch(benchmarks.add_parser("batch", help="what a generator does for one batch beside the network, part by part"))
    _add_batching(benchmarks.add_parser("batching", help="whether learned limits of batching are the best ones, and full_async never slower than sync"))
    benchmarks.add_parser("ladder", help="the four modes, from synchronous to fully asynchronous, on the same work")
    weights = benchmarks.add_parser("weights", help="how fast new weights reach generators on this and other hosts, and what that costs training")
    weights.add_argument("--megabytes", type=positive, default=64, metavar="N", help="size of a version (default: 64)")
    overhead = benchmarks.add_parser("overhead", help="what each simulator costs beyond its bare environment")
    overhead.add_argument("simulators", nargs="*", metavar="SIMULATOR", help="such as metaworld (default: all that can be built here)")
    overhead.add_argument("--episodes", type=positive, default=20, metavar="N", help="episodes of each simulator and of its bare environment (default: 20)")
    overhead.add_argument("--python", metavar="P", help="instead: a shard in the interpreter P (as simulator.python) against one in this one, N pairs")
    _add_ray(benchmarks.add_parser("ray", help="the Ray runtime against the local one, on one host"))
    _add_reality(benchmarks.add_parser("reality", help="rehearsed and measured throughput in the four modes, from one profile"))
    _add_beside(benchmarks.add_parser("beside", help="what evaluation beside training (evaluation.every) costs training"))
    _add_watched(benchmarks.add_parser("watched", help="what a page that is open (`rlvla3 watch`) costs the run that it shows"))
    _add_vector(benchmarks.add_parser("vector", help="the engine against a synchronous vector environment with the same simulators"))
    gpu = benchmarks.add_parser("gpu", help="one GPU: its limits, inference and training against them, and the four modes in real runs")
    gpu.add_argument("--minutes", type=seconds, default=8.0, metavar="M", help="how long all of it may take (default: 8)")
    gpu.add_argument(
        "--only", nargs="+", default=[], metavar="SECTION", help="machine, limits, modes, inference, training, checks, publication, rehearsal (default: all)"
    )
    _add_fuzz(benchmarks.add_parser("fuzz", help="whether broken recipes and files are all refused in words: thousands of them, made from a seed"))
    _add_chaos(benchmarks.add_parser("chaos", help="whether faults in real runs cost anything: killed and hung workers, full disks, lost nodes, from a seed"))
    deaths = benchmarks.add_parser("deaths", help="what deaths of simulators cost: steps a second with a death every few seconds, and without")
    deaths.add_argument("--shards", type=positive, default=8, metavar="N", help="simulators (default: 8)")
    deaths.add_argument("--every", type=seconds, default=20.0, metavar="S", help="seconds from one death to the next (default: 20)")
    deaths.add_argument("--windows", type=positive, default=2, metavar="N", help="how often both are measured, alternately (default: 2)")
    deaths.add_argument("--seconds", type=seconds, default=40.0, metavar="S", help="seconds of each measurement (default: 40)")
    soak = benchmarks.add_parser("soak", help="whether the memory or the open files of any process grow, over a run of very quick updates")
    soak.add_argument("--minutes", type=seconds, default=30.0, metavar="M", help="how long (default: 30)")
    _add_mismatch(benchmarks.add_parser("mismatch", help="how far rounding takes a generator's probabilities from the trainer's, by number format"))
    for name, benchmark in benchmarks.choices.items():
        figures = Path("runs/bench") / f"{name}.json"
        benchmark.add_argument("--json", type=new_file, default=figures, metavar="FILE", help=f"where the figures go (default: {figures})")
    _add_parity(benchmarks.add_parser("parity", help="whether full_async learns what sync learns: same tickets, several seeds, a table and a picture"))
    return {name: benchmarks.choices[name] for name in ("beside", "mismatch", "parity", "reality", "vector")}


def _add_batch(batch: argparse.ArgumentParser) -> None:
    batch.add_argument("--cameras", type=positive, default=2, metavar="N", help="cameras of each environment (default: 2)")
    batch.add_argument("--size", type=positive, default=224, metavar="PX", help="height and width of an image in pixels (default: 224)")
    batch.add_argument("--batch", type=positive, default=32, metavar="B", help="decisions of a batch (default: 32)")
    batch.add_argument("--batches", type=positive, default=240, metavar="N", help="how many batches are measured (default: 240)")


def _add_batching(batching: argparse.ArgumentParser) -> None:
    batching.add_argument("--profiles", type=positive, default=300, metavar="N", help="how many profiles of costs are rehearsed (default: 300)")
    batching.add_argument("--grid", type=int, default=60, metavar="N", help="how many of them with the grid of fixed limits (default: 60)")
    batching.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes that rehearse (default: 1)")
    batching.add_argument("--real", type=seconds, default=0.0, metavar="S", help="instead, train S seconds with each setting, in real processes that sleep")


def _add_reality(reality: argparse.ArgumentParser) -> None:
    reality.add_argument(
        "overrides", nargs="*", default=[], metavar="RECIPE key=value", help="a YAML file (default: that of `bench interaction`), and settings"
    )
    reality.add_argument("--profile", type=path, metavar="FILE", help="an earlier profile of the same recipe (default: measure it first)")
    reality.add_argument("--profile-seconds", type=seconds, default=PROFILE_S, metavar="S", help=f"seconds to measure it (default: {PROFILE_S:g})")
    reality.add_argument("--updates", type=positive, default=20, metavar="N", help="updates that are measured in each mode after it has settled (default: 20)")


def _add_beside(beside: argparse.ArgumentParser) -> None:
    beside.add_argument("overrides", nargs="*", default=[], metavar="RECIPE key=value", help="a YAML file (default: one with spare slots), and settings")
    beside.add_argument("--pairs", type=positive, default=5, metavar="N", help="how often training is measured with and without, alternately (default: 5)")
    beside.add_argument("--seconds", type=seconds, default=20.0, metavar="S", help="seconds of each measurement, at least (default: 20)")


def _add_watched(watched: argparse.ArgumentParser) -> None:
    watched.add_argument("--num-envs", type=positive, default=8, metavar="N", help="environments of the run (default: 8)")
    watched.add_argument("--pairs", type=positive, default=5, metavar="N", help="how often it is measured without and with a page (default: 5)")
    watched.add_argument("--seconds", type=seconds, default=40.0, metavar="S", help="seconds of each measurement (default: 40)")


def _add_vector(vector: argparse.ArgumentParser) -> None:
    vector.add_argument("overrides", nargs="*", default=[], metavar="RECIPE key=value", help="a YAML file (default: LIBERO with the mini VLA), and settings")
    vector.add_argument(
        "--inference",
        type=seconds_or_auto,
        default=0.0,
        metavar="MS|auto",
        help="milliseconds that each inference waits without using a core; auto: as long as a chunk takes",
    )
    vector.add_argument("--pairs", type=positive, default=4, metavar="N", help="how often both sides are measured, alternately (default: 4)")
    vector.add_argument("--seconds", type=seconds, default=30.0, metavar="S", help="seconds of each measurement, at least (default: 30)")
    vector.add_argument("--threads", type=positive, metavar="N", help="torch threads of the vector environment's main process (default: training.threads)")


def _add_ray(ray: argparse.ArgumentParser) -> None:
    ray.add_argument("--pairs", type=positive, default=3, metavar="N", help="how often both are measured, alternately (default: 3)")
    ray.add_argument("--seconds", type=seconds, default=20.0, metavar="S", help="seconds of each measurement (default: 20)")


def _add_mismatch(mismatch: argparse.ArgumentParser) -> None:
    mismatch.add_argument(
        "policy", nargs="?", metavar="NAME|FOLDER", help="a policy, a run, a checkpoint (default: every policy, pretrained ones at tiny size)"
    )
    mismatch.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings of the policy, for example size=tiny or options.head=tokens")
    mismatch.add_argument("--decisions", type=positive, default=200, metavar="N", help="decisions that are compared (default: 200)")
    mismatch.add_argument("--ratio", choices=("chunk", "action", "dimension"), default="action", help="what a ratio is of (default: action)")
    mismatch.add_argument("--chunk", type=positive, default=CHUNK, metavar="N", help=f"actions a decision (default: {CHUNK})")


def _add_fuzz(fuzz: argparse.ArgumentParser) -> None:
    from rlvla3.benchmarks.fuzz.subject import SUBJECTS

    fuzz.add_argument("subject", choices=SUBJECTS, help="what is broken")
    fuzz.add_argument("--cases", type=positive, default=1000, metavar="N", help="how many are tried (default: 1000)")
    fuzz.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same cases (default: 0)")
    fuzz.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first case (default: 0)")
    fuzz.add_argument("--keep", type=new_folder, metavar="FOLDER", help="where the files of cases go that are not refused in words")


def _add_chaos(chaos: argparse.ArgumentParser) -> None:
    chaos.add_argument("--minutes", type=seconds, default=10.0, metavar="M", help="no new fault is done after so many minutes (default: 10)")
    chaos.add_argument("--faults", type=positive, metavar="N", help="how many faults are done at most (default: as many as the minutes allow)")
    chaos.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same faults (default: 0)")
    chaos.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first round (default: 0)")
    chaos.add_argument("--runtime", choices=("local", "ray", "both"), default="local", help="where the runs are made (default: local)")
    chaos.add_argument("--only", nargs="+", default=[], metavar="KIND", help="such as kill-shard kill-all (default: all kinds)")


def _add_parity(parity: argparse.ArgumentParser) -> None:
    add_start(parity, "RECIPE", "a YAML file; where it begins by cloning, one clone is made and every run starts from it")
    parity.add_argument(
        "--out", type=new_folder, required=True, metavar="DIR", help="folder for runs, table and picture; the same command again continues there"
    )
    parity.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="one run of each schedule for each seed (default: 0 1 2)")
    parity.add_argument("--staleness", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="max_staleness of full_async (default: 1 2 4 8)")
    parity.add_argument("--corrections", nargs="+", default=[], metavar="NAME", help="for staleness (default: none, and the recipe's own)")
    parity.add_argument("--measure", choices=("success", "return"), default="success", help="what is compared (default: success)")
    parity.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
