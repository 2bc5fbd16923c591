"""The figures of each section as the rows of a table. Nothing here measures or computes: what is shown is in the JSON file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvla3.observability.formatting import percent

Row = Sequence[str]
Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """The heads of the columns, and a function from a section's figures to rows."""

    columns: Row
    rows: Callable[[Figures], Iterator[Row]]


def _machine(figures: Figures) -> Iterator[Row]:
    gpu, host, software = figures["gpu"], figures["host"], figures["software"]
    name = f"{gpu['name']}, {gpu['memory_gib']:.0f} GiB, {gpu['multiprocessors']} multiprocessors, driver {gpu['driver']}" if gpu["name"] else "none"
    yield "GPU", name
    yield "host", f"{host['processor']}, {host['cores']} cores, {host['memory_gib']:.0f} GiB"
    yield "software", ", ".join(f"{package} {version}" for package, version in software.items() if version)
    yield "MPS", "its daemon runs" if figures["mps"] else "not running"
    yield "drawing", figures["drawing"].removeprefix("drawing: ")


def _limits(figures: Figures) -> Iterator[Row]:
    for key, label, unit in (
        ("product_tflops", "large product, bfloat16", "TFLOP/s"),
        ("copy_gb_per_s", "large copy, read and written", "GB/s"),
        ("launch_us", "smallest operation, in a row", "us"),
    ):
        if key in figures:
            yield label, _number(figures[key]), unit
    for kind, rates in figures.get("transfers", {}).items():
        yield f"to the device, {kind} memory", _number(rates["to_device_gb_per_s"]), "GB/s"
        yield f"to the host, {kind} memory", _number(rates["to_host_gb_per_s"]), "GB/s"


def _inference(figures: Figures) -> Iterator[Row]:
    for policy, found in figures.items():
        for rows, of in _by_size(found.get("batches", {})):
            ways = [cell for way in ("eager", "shipped") for cell in (_number(of.get(f"{way}_ms")), _share(of.get(f"{way}_share")))]
            yield policy, rows, *ways, _number(of.get("limit_ms"))


def _training(figures: Figures) -> Iterator[Row]:
    for policy, found in figures.items():
        for size, of in _by_size(found.get("micro_batches", {})):
            again = "yes" if of["checkpointing"] else "no"
            yield policy, size, _number(of["ms"]), _share(of.get("mfu")), _number(of["optimizer_ms"]), _number(of["peak_gib"]), again


def _publication(figures: Figures) -> Iterator[Row]:
    for size, ways in figures.items():
        for way, of in ways.items():
            yield size, way, _number(of["held_ms"]), _number(of["publish_ms"]), _number(of["load_ms"]), _number(of["publish_gb_per_s"])


def _modes(figures: Figures) -> Iterator[Row]:
    for policy, modes in figures.items():
        for mode, of in modes.items():
            workers = [_worker(of["workers"].get(kind)) for kind in ("shard", "generator", "trainer")]
            ratio = "" if of["ratio_to_sync"] is None else f"{of['ratio_to_sync']:.2f}"
            lags = ", ".join(f"{lag}: {count}" for lag, count in of["staleness"].items())
            yield policy, mode, _number(of["steps_per_second"]), ratio, *workers, lags, _number(of.get("device_memory_gib"))


def _checks(figures: Figures) -> Iterator[Row]:
    for outcome, count in figures.get("tests", {}).items():
        yield outcome, str(count)
    for test in figures.get("failed", ()):
        yield "failed", test
    for reason in figures.get("reasons", ()):
        yield "why skipped", reason


def _rehearsal(figures: Figures) -> Iterator[Row]:
    for mode, of in figures.get("modes", {}).items():
        error = f"{100 * of['error']:+.0f} %"
        yield mode, _number(of["measured"]), _number(of["rehearsed"]), error, _number(of["bound"]), of["bound_by"], _share(of["share_of_bound"])


TABLES: Mapping[str, Table] = {
    "machine": Table(("", ""), _machine),
    "limits": Table(("", "measured", ""), _limits),
    "inference": Table(("policy", "batch", "eager ms", "of limit", "shipped ms", "of limit", "limit ms"), _inference),
    "training": Table(("policy", "micro-batch", "ms", "MFU", "optimizer ms", "peak GiB", "checkpointing"), _training),
    "publication": Table(("version", "on host", "held ms", "publish ms", "load ms", "publish GB/s"), _publication),
    "modes": Table(("policy", "mode", "steps/s", "x sync", "simulators", "generator", "trainer", "staleness", "GPU GiB"), _modes),
    "checks": Table(("", ""), _checks),
    "rehearsal": Table(("mode", "measured steps/s", "rehearsed", "error", "bound", "bound by", "of bound"), _rehearsal),
}


def _worker(shares: Mapping[str, Mapping[str, float]] | None) -> str:
    """How busy a kind of worker is, and what it waits for most: "82 %, waits: decision"."""
    if shares is None:
        return ""
    busy, idle = sum(shares["busy"].values()), shares["idle"]
    longest = max(idle, key=lambda cause: idle[cause], default=None)
    return percent(busy) + (f", waits: {longest}" if longest is not None and idle[longest] >= 0.005 else "")


def _by_size(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(found.items(), key=lambda entry: int(entry[0]))


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)


def _number(value: float | None) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 1234."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
