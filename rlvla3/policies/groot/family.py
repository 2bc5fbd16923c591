"""The settings of GR00T N1.5 in recipes. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rlvla3.checkpoints import groot_processing
from rlvla3.policies.groot.options import GrootModel
from rlvla3.policies.vla.options import FlowVLAOptions

CAMERAS = ("video.image", "video.wrist_image")


class GR00TOptions(FlowVLAOptions):
    """Settings of GR00T N1.5 (policies/groot/network.py)."""

    Family = "groot"
    CloneLearningRate = 1e-4
    Statistics = "bounds"

    model: GrootModel = GrootModel()
    """The sizes of the network."""

    @classmethod
    def usual(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        model = GrootModel.published() if size == "published" else GrootModel.tiny()
        prompt = groot_processing.prompt(Path("no checkpoint"), len(CAMERAS), model.vision.tokens, "{text}")
        if size == "tiny":
            short = {"template": "{images}{text}", "image": "{tokens}", "image_token": model.language.image_token, "tokenizer": "bytes"}
            prompt = {**prompt, **short, "length": len(CAMERAS) * model.vision.tokens + 104}
        return {
            "model": model.model_dump(),
            "processing": {
                "images": groot_processing.images(CAMERAS, model.vision.image, crop=0.95, how="torchvision"),
                "state": {"size": model.state_size},
                "prompt": prompt,
                "actions": {"size": model.action_size},
            },
        }
