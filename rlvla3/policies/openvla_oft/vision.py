"""OpenVLA's eyes: DINOv2 with registers (Darcet et al., arXiv 2309.16588) and SigLIP (arXiv 2303.15343) look at each image, and a projector makes tokens of
what both see.

The towers are our own, with timm's names, because OpenVLA's checkpoints and their LoRA adapters have these names: transformers would divide the attention's
one matrix in three. The checkpoints also hold each tower's last layer, its final norm and SigLIP's pooling, which OpenVLA does not use: they are not built.

Shapes: I images, T patches of an image, D the width of a tower, V the width of both towers together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from rlvla3.policies.openvla_oft.options import OpenVLAOFTModel
from rlvla3.policies.vla.sizes import VisionSizes

REGISTERS = 4
"""Tokens of DINOv2 that belong to no patch, beside the class token."""

EPSILON = 1e-6
"""Added to the variance in the norms."""


class PatchEmbed(nn.Module):
    """One token for each patch of an image."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images.to(self.proj.weight.dtype))
        return patches.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Attention of every token to every token of its image. One matrix gives queries, keys and values."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv, self.proj = nn.Linear(sizes.width, 3 * sizes.width), nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """The MLP of a layer."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(sizes.width, sizes.mlp_width), nn.Linear(sizes.mlp_width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """Scales each dimension (Touvron et al., arXiv 2103.17239). timm calls its weight gamma, and OpenVLA scale_factor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.scale_factor
        return out


class Layer(nn.Module):
    """One layer: attention, then an MLP, each after a norm and beside a residual connection."""

    def __init__(self, sizes: VisionSizes, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(sizes.width, EPSILON), nn.LayerNorm(sizes.width, EPSILON)
        self.attn, self.mlp = Attention(sizes), MLP(sizes)
        self.ls1, self.ls2 = (LayerScale(sizes.width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Tower(nn.Module):
    """From images to the features of the last layer but one. dino: whether the tower is DINOv2, or SigLIP."""

    def __init__(self, sizes: VisionSizes, dino: bool) -> None:
        super().__init__()
        if dino:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
            self.reg_token = nn.Parameter(torch.zeros(1, REGISTERS, sizes.width))
        self.dino = dino
        self.pos_embed = nn.Parameter(torch.zeros(1, (sizes.image // sizes.patch) ** 2, sizes.width))
        self.patch_embed = PatchEmbed(sizes)
        self.blocks = nn.ModuleList(Layer(sizes, scaled=dino) for _ in range(sizes.layers - 1))

    def forward(self, images: Tensor) -> Tensor:
        """images: [I, 3, height, width], scaled as the tower was trained. Returns the patches' features [I, T, D]."""
        x: Tensor = self.patch_embed(images) + self.pos_embed
        patches = x.shape[1]
        if self.dino:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.reg_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, -patches:]


class VisionBackbone(nn.Module):
    """Both towers, under OpenVLA's names."""

    def __init__(self, model: OpenVLAOFTModel) -> None:
        super().__init__()
        self.featurizer = Tower(model.dino, dino=True)
        self.fused_featurizer = Tower(model.siglip, dino=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: [I, 6, height, width], each image twice: scaled for DINOv2, then for SigLIP. Returns [I, T, V]."""
        dino, siglip = images.split(3, 1)
        return torch.cat([self.featurizer(dino), self.fused_featurizer(siglip)], -1)


class Projector(nn.Module):
    """From the features of both towers to tokens of the language model."""

    def __init__(self, model: OpenVLAOFTModel) -> None:
        super().__init__()
        features, width = model.dino.width + model.siglip.width, model.language.width
        self.fc1, self.fc2, self.fc3 = nn.Linear(features, 4 * features), nn.Linear(4 * features, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [I, T, V]. Returns [I, T, width of the language model]."""
        out: Tensor = self.fc3(gelu(self.fc2(gelu(self.fc1(x)))))
        return out
