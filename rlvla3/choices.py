"""The words that a setting may take and that the parts behind it know too. They stand on the ground floor, so that both sides can import them."""

from __future__ import annotations

from typing import Literal

WireType = Literal["as_trained", "bf16"]
"""The type in which weights travel. as_trained: every tensor keeps its own type. bf16: matrices travel as bfloat16. Vectors and scalars (biases, norms, scales)
are few bytes and travel as float32."""

OnHost = Literal["shared_memory", "cuda_ipc"]
"""Where the versions of a host lie: in host memory, or in the memory of the trainer's GPU, which generators map (links/weights/buffers.py)."""

Inference = Literal["auto", "eager", "graphs", "compile"]
"""How a policy acts on its device (inference/choice.py)."""

Precision = Literal["auto", "fp32", "bf16"]
"""The number format of a policy's passes. auto: bf16 on a GPU, and fp32 on a CPU."""

CarrierName = Literal["tcp", "gloo", "nccl"]
"""What carries a version from one host to the next (links/weights/between_hosts/carriers.py)."""
