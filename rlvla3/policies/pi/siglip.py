"""The SigLIP vision tower (Zhai et al., arXiv 2303.15343) of PaliGemma and SmolVLM, in plain torch and with the names of their checkpoints.

It is our own, and not transformers' module, because that module's names and position buffer changed between the versions of transformers.

Shapes: I images, C channels, T patches of an image, D the width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from rlvla3.policies.vla.sizes import VisionSizes

EPSILON = 1e-6
"""Added to the variance in the norms."""


class PatchEmbeddings(nn.Module):
    """One token for each patch of an image, plus the embedding of the patch's position."""

    def __init__(self, sizes: VisionSizes, channels: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(channels, sizes.width, sizes.patch, sizes.patch)
        self.position_embedding = nn.Embedding((sizes.image // sizes.patch) ** 2, sizes.width)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.patch_embedding(images.to(self.patch_embedding.weight.dtype))
        return patches.flatten(2).transpose(1, 2) + self.position_embedding.weight


class VisionAttention(nn.Module):
    """Attention of every patch to every patch of its image."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.q_proj, self.k_proj = nn.Linear(sizes.width, sizes.width), nn.Linear(sizes.width, sizes.width)
        self.v_proj, self.out_proj = nn.Linear(sizes.width, sizes.width), nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        out: Tensor = self.out_proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return out


class VisionMLP(nn.Module):
    """The MLP of a layer."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(sizes.width, sizes.mlp_width), nn.Linear(sizes.mlp_width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(x), approximate="tanh"))
        return out


class VisionLayer(nn.Module):
    """One layer: attention, then an MLP, each after a norm and beside a residual connection."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(sizes.width, EPSILON), nn.LayerNorm(sizes.width, EPSILON)
        self.self_attn, self.mlp = VisionAttention(sizes), VisionMLP(sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class VisionEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(sizes) for _ in range(sizes.layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTower(nn.Module):
    """From images to patch tokens. It has no pooling head: PaliGemma and SmolVLM use all tokens."""

    def __init__(self, sizes: VisionSizes, channels: int = 3) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(sizes, channels)
        self.encoder = VisionEncoder(sizes)
        self.post_layernorm = nn.LayerNorm(sizes.width, EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        """images: [I, C, height, width], from -1 to 1. Returns [I, T, D]."""
        out: Tensor = self.post_layernorm(self.encoder(self.embeddings(images)))
        return out
