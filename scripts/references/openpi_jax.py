"""Reference of openpi's conversion of JAX weights: what its examples/convert_jax_model_to_pytorch.py makes of tiny random params.

Run it from the root of the repository, in a Python environment with numpy, torch and safetensors, beside openpi's source (commit 15a9616):
`PYTHONPATH=. python scripts/references/openpi_jax.py OPENPI/examples/convert_jax_model_to_pytorch.py`. jax, flax and orbax are not needed by the two functions
that are called, and are replaced here. It writes tests/references/pi/openpi_jax.json: for pi0 and pi0.5, for each tensor of the PyTorch network its shape and a
sum of its numbers, each times its place, that any transposition changes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from tests.support.jax_params import jax_params, ramp_sum, sizes

TARGET = Path("tests/references/pi/openpi_jax.json")
STUBS = ("flax", "flax.nnx", "orbax", "orbax.checkpoint", "tyro", "openpi", "openpi.models", "openpi.models.gemma", "openpi.models.model")
STUBS += ("openpi.models.pi0_config", "openpi.models_pytorch", "openpi.models_pytorch.pi0_pytorch", "openpi.training", "openpi.training.config")


def converter(path: str) -> Any:
    for name in STUBS:
        sys.modules[name] = MagicMock()
    spec = importlib.util.spec_from_file_location("converter", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    module, found = converter(sys.argv[1]), {}
    vision, language, expert = sizes()
    config = SimpleNamespace(
        vision_config=SimpleNamespace(hidden_size=vision["width"], num_hidden_layers=vision["layers"]),
        text_config=SimpleNamespace(
            hidden_size=language["width"], num_hidden_layers=language["layers"], num_attention_heads=language["heads"], head_dim=language["head_size"]
        ),
    )
    expert_config = SimpleNamespace(width=expert["width"], depth=expert["layers"], num_heads=expert["heads"], head_dim=expert["head_size"])
    for family in ("pi0", "pi05"):
        params = {name.removeprefix("PaliGemma/"): array for name, array in jax_params(family).items() if name.startswith("PaliGemma/")}
        first, rest = module.slice_paligemma_state_dict(params, config)
        second = module.slice_gemma_state_dict(rest, expert_config, num_expert=1, checkpoint_dir=family, pi05=family == "pi05")
        found[family] = {name: [list(tensor.shape), ramp_sum(tensor.numpy())] for name, tensor in sorted({**first, **second}.items())}
        print(family, len(found[family]))
    TARGET.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
