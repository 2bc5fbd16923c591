"""How much is measured: full sizes on a GPU, tiny ones without. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a measurement.

    name: as the JSON file says it. device: what is measured. product: rows and columns of the matrices of the large product. copied: bytes of the large copy.
    carried: bytes of a transfer between host and device. batches: decisions of an inference. micro_batches: decisions of a training pass. inferring, training,
    running: the policies of these sections, by their names in policies.py, in the order in which they are measured. megabytes: sizes of published versions, in
    million bytes. shards: simulator processes. shortest_s: the seconds of a measurement in a mode, at least.
    """

    name: str
    device: str
    product: int
    copied: int
    carried: int
    batches: tuple[int, ...]
    micro_batches: tuple[int, ...]
    inferring: tuple[str, ...]
    training: tuple[str, ...]
    running: tuple[str, ...]
    megabytes: tuple[int, ...]
    shards: int
    shortest_s: float

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


FULL = Sizes(
    name="full",
    device="cuda:0",
    product=8192,
    copied=4096 * MIB,
    carried=1024 * MIB,
    batches=(1, 32, 128, 8, 64, 2, 4, 16),
    micro_batches=(64, 16, 32, 128),
    inferring=("pi0 3.5 B", "mini VLA 30 M", "mini VLA 1.4 M"),
    training=("pi0 3.5 B, expert", "pi0 3.5 B, all", "mini VLA 30 M"),
    running=("mini VLA 30 M", "pi0 3.5 B, expert", "mini VLA 1.4 M"),
    megabytes=(120, 1250, 6),
    shards=32,
    shortest_s=8.0,
)
"""The sizes on a GPU. What matters most comes first, because time may run out. megabytes: mini VLA 30 M, the expert of pi0 and mini VLA 1.4 M, in float32."""

TINY = Sizes(
    name="tiny, no GPU",
    device="cpu",
    product=256,
    copied=16 * MIB,
    carried=4 * MIB,
    batches=(1, 4),
    micro_batches=(8,),
    inferring=("pi0, tiny", "mini VLA, tiny"),
    training=("pi0, tiny, expert", "mini VLA, tiny"),
    running=("mini VLA, tiny",),
    megabytes=(1,),
    shards=2,
    shortest_s=1.0,
)
"""The sizes without a GPU: they show that the measurement works, and nothing about a GPU."""


def sizes_for(gpu: str | None) -> Sizes:
    """The sizes for a machine with this GPU, or with none."""
    return TINY if gpu is None else FULL
