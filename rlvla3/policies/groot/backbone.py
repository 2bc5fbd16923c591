"""GR00T's vision-language backbone: SigLIP's image tokens stand at their places in a chat prompt, which the first layers of Qwen3 read.

Source: the Eagle 2.5 backbone of GR00T N1.5 (github.com/NVIDIA/Isaac-GR00T). The layers are those of transformers. Here they are called directly. So there is
no buffer that would get lost between the meta device and the real one, and no host synchronisation.

Padding changes nothing: positions count the real tokens only, and no token attends to padding.

Shapes: B observations, N cameras, T image tokens of an image, L prompt tokens, W the width of the language model.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers.models.qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm
from transformers.models.siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from rlvla3.policies.groot.options import GrootLanguage, GrootModel
from rlvla3.policies.vla.network import Inputs
from rlvla3.policies.vla.sizes import VisionSizes


class Backbone(nn.Module):
    """Images and prompt -> hidden states of the prompt, [B, L, prefix_width]."""

    def __init__(self, model: GrootModel) -> None:
        super().__init__()
        self.eagle_model = Eagle(model)
        self.eagle_linear = nn.Identity() if model.projection is None else nn.Linear(model.language.width, model.projection)

    def forward(self, inputs: Inputs) -> Tensor:
        hidden: Tensor = self.eagle_linear(self.eagle_model(inputs))
        return hidden


class Eagle(nn.Module):
    """The vision-language model. Its modules have the names of the published checkpoint."""

    def __init__(self, model: GrootModel) -> None:
        super().__init__()
        self.image_token = model.language.image_token
        self.vision_model = nn.ModuleDict({"vision_model": Vision(model.vision)})
        self.language_model = nn.ModuleDict({"model": Language(model.language)})
        self.mlp1 = nn.Sequential(nn.Linear(model.vision.width, model.language.width))

    def forward(self, inputs: Inputs) -> Tensor:
        language = cast(Language, self.language_model["model"])
        images = self.mlp1(self.vision_model["vision_model"](inputs.images.flatten(0, 1)))
        images = images.unflatten(0, inputs.images.shape[:2])
        prompt = _insert(images, inputs.image_mask, language.embed_tokens(inputs.tokens), inputs.tokens == self.image_token)
        hidden: Tensor = language(prompt, inputs.token_mask)
        return hidden


class Vision(nn.Module):
    """SigLIP: images [images, 3, height, width] -> image tokens [images, T, width]."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        config = SiglipVisionConfig(hidden_size=sizes.width, intermediate_size=sizes.mlp_width, num_attention_heads=sizes.heads)
        config._attn_implementation = "sdpa"
        self.embeddings = nn.ModuleDict(
            {
                "patch_embedding": nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch),
                "position_embedding": nn.Embedding(sizes.tokens, sizes.width),
            }
        )
        self.encoder = VisionEncoder(config, sizes.layers)
        self.post_layernorm = nn.LayerNorm(sizes.width, eps=config.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embeddings["patch_embedding"](images.to(self.post_layernorm.weight.dtype)).flatten(2).transpose(1, 2)
        positions = self.embeddings["position_embedding"](torch.arange(patches.shape[1], device=patches.device))
        tokens: Tensor = self.post_layernorm(self.encoder(patches + positions))
        return tokens


class VisionEncoder(nn.Module):
    """The layers of SigLIP."""

    def __init__(self, config: SiglipVisionConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None)
        return hidden


class Language(nn.Module):
    """Qwen3's first layers and its last norm: prompt embeddings [B, L, W] -> hidden states [B, L, W]."""

    def __init__(self, sizes: GrootLanguage) -> None:
        super().__init__()
        self.sizes = sizes
        config = Qwen3Config(
            hidden_size=sizes.width,
            intermediate_size=sizes.mlp_width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.key_value_heads,
            head_dim=sizes.head_size,
        )
        config._attn_implementation = "sdpa"
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(Qwen3DecoderLayer(config, index) for index in range(sizes.layers))
        self.norm = Qwen3RMSNorm(sizes.width, eps=config.rms_norm_eps)

    def forward(self, prompt: Tensor, token_mask: Tensor) -> Tensor:
        position = (token_mask.long().cumsum(1) - 1).clamp(min=0)
        rotation = self._rotation(position, prompt.dtype)
        mask = _causal_mask(token_mask)
        for layer in self.layers:
            prompt = layer(prompt, attention_mask=mask, position_ids=position, position_embeddings=rotation)
        hidden: Tensor = self.norm(prompt)
        return hidden

    def _rotation(self, position: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary position embedding: each [B, L, head_size]."""
        size = self.sizes.head_size
        frequencies = 1 / self.sizes.rope_base ** (torch.arange(0, size, 2, device=position.device, dtype=torch.float32) / size)
        angles = (position[..., None] * frequencies).repeat(1, 1, 2)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _insert(images: Tensor, image_mask: Tensor, prompt: Tensor, is_image: Tensor) -> Tensor:
    """Put image tokens [B, N, T, W] at their places, is_image [B, L], in the embedded prompt [B, L, W]. Images with image_mask [B, N] False have no place."""
    cameras, tokens = images.shape[1:3]
    order = torch.argsort((~image_mask).byte(), dim=1, stable=True)
    index = (is_image.long().cumsum(1) - 1).clamp(min=0, max=cameras * tokens - 1)
    index = order.gather(1, index // tokens) * tokens + index % tokens
    chosen = images.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, images.shape[-1]))
    return torch.where(is_image[..., None], chosen.to(prompt.dtype), prompt)


def _causal_mask(token_mask: Tensor) -> Tensor:
    """bool [B, 1, L, L]: each token attends to the real tokens up to itself. Padding attends to itself, because a softmax over nothing is undefined."""
    length = token_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=token_mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=token_mask.device)
    return ((causal & token_mask[:, None]) | itself)[:, None]
