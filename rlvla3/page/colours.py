"""A colour for each stage of a worker, as a CSS variable of the page around it. What a worker waits for is paler than what it does."""

from __future__ import annotations

from collections.abc import Mapping

from rlvla3.observability.meter import BUSY, IDLE

COLOURS: Mapping[str, str] = {stage: f"var(--stage-{stage.replace('_', '-')})" for stage in (*BUSY, *IDLE)}


def colour_of(stage: str) -> str:
    """Stages of other releases are grey."""
    return COLOURS.get(stage, "var(--axis)")
