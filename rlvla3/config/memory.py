"""Who may take how much of a device's memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from rlvla3.config.section import Number, Section
from rlvla3.scheduling.placement import Kind

Stage = Literal["trainer", "generator", "simulator"]
Part = Annotated[float, Field(gt=0, le=1), Number]

TOGETHER: Mapping[Kind, Sequence[Sequence[Stage]]] = {
    "colocated": [("trainer", "generator", "simulator")],
    "hybrid": [("trainer", "generator"), ("trainer", "simulator")],
    "disaggregated": [("generator", "simulator")],
    "separate": [],
}
"""The stages that each placement puts on one device (rlvla3/scheduling/placement.py)."""

IN_TURN: Sequence[Stage] = ("trainer", "generator")
"""The stages that have a device in turn with engine.offload."""


class MemoryConfig(Section):
    """Shares of a GPU's memory, between 0 and 1. `null` means no limit.

    The processes of one stage on one device have equal parts of its share. A trainer or generator process that wants more than its part ends the run with a
    message that says so; it takes nothing from the others. On CPUs there is no limit.

    Without a limit, a trainer that shares its GPU with generators leaves 5 % of the GPU free for them.
    """

    trainer: Part | None = None
    """Share of the trainer's ranks."""

    generator: Part | None = None
    """Share of the generators."""

    simulator: Part | None = None
    """Share that stays free for simulators. It is a reserve and not a limit: a GPU simulator allocates without torch, so torch cannot hold it to a share."""

    def check(self, together: Iterable[Sequence[Stage]], in_turn: bool = False) -> None:
        """Raises ValueError where stages that share a device may take more than there is. together: the stages on each device. in_turn: trainer and
        generator are never there at the same time."""
        phases = [tuple(stage for stage in stages if stage != other) for stages in together for other in IN_TURN] if in_turn else together
        for stages in phases:
            shares = {stage: share for stage in stages if (share := getattr(self, stage)) is not None}
            if sum(shares.values()) > 1 + 1e-9:
                said = ", ".join(f"memory.{stage}={share:g}" for stage, share in shares.items())
                raise ValueError(
                    f"{said} are {sum(shares.values()):g} of a device that these stages share: make them 1 or less together, or give the stages devices of "
                    f"their own (placement; on one host engine.device, training.device and simulator.devices)"
                )


def stages_on(devices: Mapping[Stage, Sequence[str]]) -> list[tuple[Stage, ...]]:
    """Which stages may meet on one GPU, from the devices that each is set to: "auto" may be any of them."""
    named = {_spelled_out(name) for names in devices.values() for name in names} - {"auto", "cpu"}
    found = {stage: {_spelled_out(name) for name in names} for stage, names in devices.items()}
    return [tuple(stage for stage, names in found.items() if names & {device, "auto"}) for device in sorted(named) or ["auto"]]


def _spelled_out(device: str) -> str:
    return "cuda:0" if device == "cuda" else device
