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
    def _undo_sexagesimal(cls, given: Any) -> Any:
        """YAML 1.1 takes 3:1 without quotes for three minutes and one second: 181."""
        if isinstance(given, bool) or not isinstance(given, int):
            return given
        return ":".join(_digits_60(given)) if given >= 60 else str(given)

    @model_validator(mode="after")
    def _check_ratio(self) -> PlacementConfig:
        check_parts(self.kind, self.parts)
        return self


def _digits_60(number: int) -> list[str]:
    """The digits of a number to the base of 60, each written to the base of 10."""
    return [*(_digits_60(number // 60) if number >= 60 else []), str(number % 60)]


class RayConfig(Section):
    """The cluster that `runtime: ray` uses."""

    address: str = ""
    """The address of a Ray cluster, such as `auto` or `host:port`. Empty means that the run starts a cluster on this machine and stops it at its end."""

    @field_validator("address", mode="before")
    @classmethod
    def _empty(cls, given: Any) -> Any:
        """`ray.address=` is none."""
        return "" if given is None else given
