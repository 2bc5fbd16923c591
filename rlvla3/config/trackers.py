"""The settings of experiment trackers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import StringConstraints, field_validator, model_validator

from rlvla3.config.section import ExpandedPath, Section

TrackerName = Literal["wandb", "trackio", "mlflow", "swanlab"]
Title = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[\w.-]+$")]


class TrackersConfig(Section):
    """Sends the curves of a run to experiment trackers too (docs/tracking.md). A tracker is never waited for.

    In a recipe the names alone are enough: `trackers: wandb`, or `trackers: [wandb, mlflow]`.
    """

    names: list[TrackerName] = []
    """The trackers: `wandb` (Weights & Biases), `trackio`, `mlflow`, `swanlab`. Each is an extra of the same name: `pip install 'rlvla3[wandb]'`."""

    project: Title = "rlvla3"
    """The project, or MLflow's experiment, that the run belongs to: letters, digits and `-_.`"""

    run: Title | None = None
    """What the run is called there. `null` means the name of its run directory."""

    offline: bool = False
    """Whether everything stays on this machine, in the run directory. Otherwise a tracker sends it where its own settings say, such as `WANDB_BASE_URL` or
    `MLFLOW_TRACKING_URI`."""

    python: ExpandedPath | None = None
    """The Python interpreter that has the trackers, for example `~/trackers/bin/python`. `null` means the interpreter of the run. An interpreter of their own
    keeps the packages of trackers from clashing with those of the run."""

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, given: Any) -> Any:
        return {"names": given} if isinstance(given, str | list) else given

    @field_validator("names", mode="before")
    @classmethod
    def _one_alone(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("names")
    @classmethod
    def _each_once(cls, names: list[TrackerName]) -> list[TrackerName]:
        if len(set(names)) < len(names):
            raise ValueError(f"{', '.join(names)} names a tracker twice: name each once")
        return names
