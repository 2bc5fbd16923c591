"""Who waits for whom: the settings of the engine, and the modes that are presets of them (docs/engine.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import model_validator

from rlvla3.config.section import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from rlvla3.scheduling.sharding import Serving

Mode = Literal["sync", "train_async", "rollout_async", "full_async"]


class ElasticConfig(Section):
    """How many of engine.generators are active follows the load, while the run goes on. It begins with the least of them (rlvla3/scheduling/elastic.py).

    least: active generators; engine.generators is the most (on Ray: of each host its part, and no fewer than its devices that infer). every_s: seconds that
    are measured before the number may change, better several updates than a part of one.
    """

    least: Positive = 1
    every_s: PositiveFloat = 30.0


class EngineConfig(Section):
    """Who waits for whom. `mode` is a preset of the four settings below it; a setting that is given wins over its preset.

    max_batch: B_max, decisions an inference (None: no limit). max_wait_ms: T_max, counted from the oldest waiting request (None: no limit).
    max_staleness: how many updates ahead of the current version a ticket may be handed out.
    streaming: train on micro-batches as they fill, instead of when the update is whole.
    generators: inference processes. serving: which of them serves which shards: `round_robin`, they take turns; `least_loaded`, whoever has the fewest
    environments takes the next shard. elastic: generators that are not needed serve nobody (None: all serve).
    device: of the generators: `auto`, they go round the GPUs there are (the CPU where there is none); `cuda:N`, or `cuda` for the first, all are on that one;
    `cpu`. threads: torch threads of each.
    offload: rollout and training have their devices in turn, each side's tensors in the host's memory while the other works. For max_staleness 0 without
    streaming, where they alternate. Simulators stay.
    max_restarts: simulator processes of a host that are replaced before the run gives up. On Ray also, each counted by itself, how often a host is begun anew
    and how often the run goes on after a lost trainer.
    record: keep what `rlvla3 replay RUN_DIR` needs to repeat the run, bit for bit: 24 bytes a decision and 16 an episode.
    trace: write RUN_DIR/trace.json, in which Perfetto shows who did what when.
    """

    mode: Mode = "full_async"
    max_batch: Positive | None
    max_wait_ms: NonNegativeFloat | None
    max_staleness: NonNegative
    streaming: bool
    generators: Positive = 1
    serving: Serving = "round_robin"
    elastic: ElasticConfig | None = None
    device: str = "auto"
    threads: Positive = 1
    offload: bool = False
    max_restarts: NonNegative = 20
    record: bool = True
    trace: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        return {**PRESETS.get(given.get("mode", "full_async"), PRESETS["full_async"]), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _check_elastic(self) -> EngineConfig:
        if self.elastic is not None and self.elastic.least >= self.generators:
            raise ValueError(
                f"engine.elastic.least={self.elastic.least} leaves nothing to choose with engine.generators={self.generators}, the most that may be active: "
                f"set engine.generators to {self.elastic.least + 1} or more, or engine.elastic to null"
            )
        return self

    @model_validator(mode="after")
    def _check_offload(self) -> EngineConfig:
        if self.offload and (self.max_staleness or self.streaming):
            raise ValueError(
                f"engine.offload=true gives devices to rollout and training in turn, and with engine.mode={self.mode} (max_staleness={self.max_staleness}, "
                f"streaming={str(self.streaming).lower()}) they work at the same time: set engine.max_staleness=0 and "
                f"engine.streaming=false (as engine.mode=sync does where they are not given), or engine.offload=false and shares of the devices under memory"
            )
        return self


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sync": {"max_batch": None, "max_wait_ms": None, "max_staleness": 0, "streaming": False},
    "train_async": {"max_batch": None, "max_wait_ms": None, "max_staleness": 1, "streaming": False},
    "rollout_async": {"max_batch": 8, "max_wait_ms": 0.0, "max_staleness": 1, "streaming": False},
    "full_async": {"max_batch": 8, "max_wait_ms": 0.0, "max_staleness": 1, "streaming": True},
}
"""The synchronous baseline and the papers' steps away from it: one engine, four settings (docs/engine.md)."""

assert set(PRESETS) == set(get_args(Mode))
