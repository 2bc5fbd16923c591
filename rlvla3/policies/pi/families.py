"""The settings of pi0, pi0.5 and SmolVLA in recipes. Nothing here imports torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from rlvla3.policies.pi.options import PiModel, Variant
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from rlvla3.policies.vla.options import FlowVLAOptions, ValueOptions

OPENPI_CAMERAS = [{"key": "base_0_rgb"}, {"key": "left_wrist_0_rgb"}, {"key": "right_wrist_0_rgb"}]

TINY_PROMPT = 104
"""Tokens of a prompt of a tiny model, whose tokens are bytes: enough for every sentence of LIBERO."""


class PiOptions(FlowVLAOptions):
    """What pi0 and pi0.5 share."""

    Variant: ClassVar[Variant]
    """Which of the two networks it is."""

    model: PiModel = PiModel()
    """The sizes of the network."""

    @classmethod
    def usual(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        model = PiModel.published(cls.Variant) if size == "published" else PiModel.tiny(cls.Variant)
        side = model.vision.image
        return {
            "model": model.model_dump(),
            "processing": {
                "images": {"cameras": OPENPI_CAMERAS, "size": [side, side], "resize": "pad"},
                "state": {"size": model.state_size},
                "prompt": cls.prompt(size),
                "actions": {"size": model.action_size},
            },
        }

    @classmethod
    def prompt(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        """The usual prompt, as plain data."""
        raise NotImplementedError


class Pi0Options(PiOptions):
    """Settings of pi0 (policies/pi/network.py)."""

    Family = "pi0"
    Variant = "pi0"

    value: ValueOptions = ValueOptions(features="suffix")

    @classmethod
    def prompt(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        if size == "tiny":
            return {"form": "line", "length": TINY_PROMPT}
        return {"form": "line", "length": 48, "tokenizer": "google/paligemma-3b-pt-224"}


class Pi05Options(PiOptions):
    """Settings of pi0.5 (policies/pi/network.py)."""

    Family = "pi05"
    Statistics = "quantiles"
    Variant = "pi05"

    model: PiModel = PiModel(variant="pi05")
    """The sizes of the network."""

    @classmethod
    def prompt(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        if size == "tiny":
            return {"form": "task", "length": TINY_PROMPT + 16}
        return {"form": "task_state", "length": 200, "tokenizer": "google/paligemma-3b-pt-224"}


class SmolVLAOptions(FlowVLAOptions):
    """Settings of SmolVLA (policies/pi/smolvla.py)."""

    Family = "smolvla"
    CloneLearningRate = 1e-4

    model: SmolVLAModel = SmolVLAModel()
    """The sizes of the network."""

    @classmethod
    def usual(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        model = SmolVLAModel.published() if size == "published" else SmolVLAModel.tiny()
        side = model.vision.image
        cameras = [{"key": f"observation.images.camera{number}"} for number in (1, 2, 3)]
        tokenizer = {"length": TINY_PROMPT} if size == "tiny" else {"length": 48, "tokenizer": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"}
        return {
            "model": model.model_dump(),
            "processing": {
                "images": {"cameras": cameras, "size": [side, side], "resize": "pad_corner"},
                "state": {"size": model.state_size},
                "prompt": {"form": "line", **tokenizer},
                "actions": {"size": model.action_size},
            },
        }
