"""Constants of the processing are made once, and compiled code finds them made: on a GPU, to make them means to wait for the host's memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlvla3.processing.constants import constant
from rlvla3.processing.images import pillow_bilinear


def test_a_constant_is_the_same_tensor_at_every_call():
    device = torch.device("cpu")
    assert constant((1.0, 2.0), torch.float32, device) is constant((1.0, 2.0), torch.float32, device)


@pytest.mark.slow
def test_compiled_code_makes_no_constant():
    operations: list[str] = []

    def keep(module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        operations.extend(str(node.target) for node in module.graph.nodes)
        return module

    def shown(pixels: Tensor) -> Tensor:
        return pillow_bilinear(pixels, 3, 4) * constant((2.0, 3.0, 4.0, 5.0), torch.float32, pixels.device)

    pixels = torch.arange(3 * 6 * 8, dtype=torch.uint8).view(3, 6, 8)
    assert torch.equal(torch.compile(shown, backend=keep, dynamic=False)(pixels), shown(pixels))
    assert operations and not [name for name in operations if "arange" in name or "method tensor" in name or "inference_mode" in name]
