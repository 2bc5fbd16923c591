"""The settings of clusters: which devices run which stages, and which Ray cluster it is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from rlvla3.config.section import Section
from rlvla3.scheduling.placement import check_parts, parse_ratio


class PlacementConfig(Section):
    """Which devices run which stages, if there are several (rlvla3/scheduling/placement.py). `runtime: ray`, `rlvla3 rehearse` and `rlvla3 plan` use it."""

    kind: Literal["colocated", "hybrid", "disaggregated", "separate"] = "colocated"
    """`colocated`: every device runs everything. `hybrid`: simulators have one part of the devices and generators another, and the trainer uses all.
    `disaggregated`: simulators and generators share one part, and the trainer has the other. `separate`: simulators, generators and the trainer have a part
    each."""

    ratio: str = ""
    """The sizes of the parts relative to each other, such as `"3:1"`. Empty means equal parts."""

    @property
    def parts(self) -> tuple[int, ...]:
        """The ratio as numbers, () for equal parts."""
        return parse_ratio(self.ratio) if self.ratio else ()

    @field_validator("ratio", mode="before")
    @classmethod
    def _as_text(cls, given: Any) -> Any:
        """A ratio of one part is a number for YAML."""
        return str(given) if isinstance(given, int) and not isinstance(given, bool) else given

    @model_validator(mode="after")
    def _check_ratio(self) -> PlacementConfig:
        check_parts(self.kind, self.parts)
        return self


class RayConfig(Section):
    """The cluster that `runtime: ray` uses."""

    address: str = ""
    """The address of a Ray cluster, such as `auto` or `host:port`. Empty means that the run starts a cluster on this machine and stops it at its end."""

    @field_validator("address", mode="before")
    @classmethod
    def _empty(cls, given: Any) -> Any:
        """`ray.address=` is none."""
        return "" if given is None else given
