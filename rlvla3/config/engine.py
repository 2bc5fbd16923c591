"""The settings of the engine: who waits for whom. Its modes are presets of four of these settings (docs/engine.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from rlvla3.config.section import Device, NonNegative, Number, Positive, Seconds, Section, Workers, word
from rlvla3.scheduling.sharding import Serving

Share = Literal["auto", "lanes", "processes"]
Milliseconds = Annotated[float, Field(ge=0, le=10**9), Number]
Mode = Literal["sync", "train_async", "rollout_async", "full_async"]


class ElasticConfig(Section):
    """Lets the number of active generators follow the load while the run goes on (rlvla3/scheduling/elastic.py).

    `engine.generators` is the largest number. The run starts with `least` of them.
    """

    least: Workers = 1
    """The smallest number of active generators. On Ray each host takes its part of this number, and never fewer than its devices that infer."""

    every_s: Seconds = 30.0
    """Seconds of measurement before the number may change. Choose a time in which several updates finish."""


class EngineConfig(Section):
    """Who waits for whom.

    `mode` is a preset of `max_batch`, `max_wait_ms`, `max_staleness` and `streaming`. If you set one of these four, your value is used instead.
    """

    mode: Mode = "full_async"
    """The preset. In `sync` the parts of the engine wait for each other most, in `full_async` least."""

    max_batch: Positive | Literal["auto"] | None
    """B_max, the largest number of decisions in one inference. `auto` means that each generator measures what an inference costs and how soon simulators ask
    again, and chooses B_max and T_max by that, again and again (docs/engine.md). `null` means no limit."""

    max_wait_ms: Milliseconds | None
    """T_max, the longest time in milliseconds that a request waits for others to join its batch. It counts from the oldest waiting request. `null` means no
    limit: a batch then starts when it is full or when nobody else can ask. With `max_batch: auto` it limits what is chosen. If you give `max_batch` a number
    and leave this out, the asynchronous modes do not wait: 0."""

    max_staleness: NonNegative
    """How many updates a ticket may be ahead of the current version when it is handed out. With 0, all episodes of an update are made
    with the weights that the update starts from."""

    streaming: bool
    """Whether the trainer starts on a micro-batch as soon as it is full. Otherwise it waits until all episodes of the update are there."""

    generators: Workers = 1
    """Inference processes. Use more than one if there are several GPUs, or if one process cannot answer all shards in time."""

    serving: Serving = "round_robin"
    """Which generator serves which shards. With `round_robin` the generators take turns. With `least_loaded` the next shard goes to the generator with the
    fewest environments, largest shards first. That helps if shards of several simulators differ in size."""

    elastic: ElasticConfig | None = None
    """With `null`, all generators are active for the whole run."""

    device: Device = "auto"
    """Where generators compute. `auto` distributes them over all GPUs in turn, and uses the CPU if there is no GPU. `cuda:N` puts all of them on one GPU, and
    `cuda` means the first. `cpu` uses the CPU."""

    threads: Workers = 1
    """torch threads of each generator on the CPU."""

    share: Share = "auto"
    """How the first generator and the first rank of the trainer share a device. With `processes` each is a process of its own: the GPU gives them time in turn,
    or runs both at once where an MPS control daemon is running (NVIDIA's Multi-Process Service). With `lanes` both are threads of one process, and the GPU
    lets the kernels of inference go before those of training. `auto` measures both ways at the start, where the two share a GPU and work at the same time, and
    takes the better one; elsewhere it means `processes`. `lanes` needs `runtime: local` and the same number of threads for both."""

    offload: bool = False
    """Lets rollout and training use their devices in turn. While one side works, the tensors of the other are in host memory. It needs `max_staleness` 0 and
    no `streaming`, because only then the two sides alternate. Simulators keep their device memory. Use it if model and optimizer do not fit on one GPU
    together."""

    max_restarts: NonNegative = 20
    """How many simulator processes of a host are replaced before the run gives up. It also limits how often each generator is replaced, how often the run
    continues after a trainer is lost, and, on Ray, how often each host is started again. Each of these has a count of its own."""

    max_set_aside: NonNegative = 0
    """How many tickets may be set aside. A ticket that loses its simulator three times, the last time while it ran alone, ends the run, or is set aside: then
    nothing is learned from it, and its group has one episode less. Evaluations leave it out and say so. On Ray it is a number for each host. It needs
    `training.ranks` 1."""

    record: bool = True
    """Whether the run keeps what `rlvla3 replay` needs to repeat it bit for bit: 24 bytes for each decision and 16 for each episode."""

    trace: bool = False
    """Whether the run writes trace.json into its directory. Perfetto shows it: what every worker did, and when. On a GPU it makes training slower: each pass is
    waited for, so that its time is known."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        preset = PRESETS.get(word(given, "mode", "full_async"), PRESETS["full_async"])
        learned = preset["max_batch"] == "auto"
        return {**preset, **({"max_wait_ms": 0.0} if learned and given.get("max_batch", "auto") != "auto" else {}), **given}

    @property
    def batch_limit(self) -> int | None:
        """B_max where it is a number. None where there is no limit, or where it is learned."""
        return None if self.max_batch == "auto" else self.max_batch

    @field_validator("max_batch", mode="wrap")
    @classmethod
    def _check_max_batch(cls, value: object, read: ValidatorFunctionWrapHandler) -> object:
        try:
            return read(value)
        except ValidationError:  # it has one error for each type that is possible, in pydantic's own words
            raise ValueError("Input should be auto, null, or an integer of 1 or more") from None

    @model_validator(mode="after")
    def _check_elastic(self) -> EngineConfig:
        if self.elastic is not None and self.elastic.least >= self.generators:
            raise ValueError(
                f"engine.elastic.least={self.elastic.least} leaves nothing to choose with engine.generators={self.generators}, the most that may be active: "
                f"set engine.generators to {self.elastic.least + 1} or more, or engine.elastic to null"
            )
        return self

    @property
    def overlaps(self) -> bool:
        """Whether rollout and training work at the same time. Otherwise they alternate."""
        return self.max_staleness > 0 or self.streaming

    @model_validator(mode="after")
    def _check_share(self) -> EngineConfig:
        if self.share == "lanes" and self.offload:
            raise ValueError(
                "engine.share=lanes lets rollout and training use a device at the same time, and with engine.offload=true they use it in turn: "
                "set engine.share=processes, or engine.offload=false"
            )
        return self

    @model_validator(mode="after")
    def _check_offload(self) -> EngineConfig:
        if self.offload and self.overlaps:
            raise ValueError(
                f"engine.offload=true gives devices to rollout and training in turn, and with engine.mode={self.mode} (max_staleness={self.max_staleness}, "
                f"streaming={str(self.streaming).lower()}) they work at the same time: set engine.max_staleness=0 and "
                f"engine.streaming=false (as engine.mode=sync does where they are not given), or engine.offload=false and shares of the devices under memory"
            )
        return self


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sync": {"max_batch": None, "max_wait_ms": None, "max_staleness": 0, "streaming": False},
    "train_async": {"max_batch": None, "max_wait_ms": None, "max_staleness": 1, "streaming": False},
    "rollout_async": {"max_batch": "auto", "max_wait_ms": None, "max_staleness": 1, "streaming": False},
    "full_async": {"max_batch": "auto", "max_wait_ms": None, "max_staleness": 1, "streaming": True},
}
"""The synchronous baseline and the papers' steps away from it: one engine, four settings (docs/engine.md)."""

assert set(PRESETS) == set(get_args(Mode))
