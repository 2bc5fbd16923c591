"""What `rlvla3 bench weights` does: it measures, prints and writes the figures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from rlvla3.benchmarks.weights.delay import measure_delay
from rlvla3.benchmarks.weights.slowdown import measure_slowdown
from rlvla3.benchmarks.weights.transfer import measure_transfers
from rlvla3.observability.figures import write_figures


def main(figures: Path, megabytes: int) -> None:
    """Measure with versions of `megabytes` million bytes and write the figures to a JSON file."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"megabytes": megabytes, "transfer": measure_transfers(megabytes)}
    _print_transfer(result["transfer"])
    result["training"] = measure_slowdown(megabytes)
    print(f"publishing slows training by {result['training']['slowdown']:.1%}; an update takes {result['training']['seconds_an_update']:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        result["delay"] = measure_delay(Path(scratch))
    delays = ", ".join(f"{name.replace('_', ' ')} {found['median_ms']:.1f} ms (p90 {found['p90_ms']:.1f})" for name, found in _timed(result["delay"]))
    print(f"optimizer step to first decision, {result['delay']['versions']} versions: {delays}")
    write_figures(result, figures)


def _print_transfer(transfer: dict[str, Any]) -> None:
    for name, speed in transfer["gb_per_second"].items():
        print(f"{name.replace('_', ' '):18s} {speed:6.2f} GB/s")
    for where in ("same_host", "between_hosts"):
        print("  ".join(f"{name.replace('_', ' ')} {ratio:.2f}" for name, ratio in transfer[where].items()), flush=True)


def _timed(delay: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return [(name, found) for name, found in delay.items() if isinstance(found, dict)]
