"""PaliGemma (Beyer et al., arXiv 2407.07726) as pi0 and pi0.5 use it: it reads images and prompt at once, and writes no text.

    images -> SigLIP -> projector ---------------+
    prompt -> embedding * sqrt(width) -----------+-> Gemma -> final tokens, keys and values of every layer

Images and prompt attend to each other fully: nothing is causal. Image tokens are not scaled. Masked cameras and padding of the prompt are hidden: nobody
attends to them, and they take no position, so that a position is the number of visible tokens before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlvla3.policies.pi.options import PiModel
from rlvla3.policies.pi.siglip import VisionTower
from rlvla3.policies.vla.decoder import GEMMA, KeysValues, LanguageModel
from rlvla3.policies.vla.network import Inputs


class Projector(nn.Module):
    """From the width of the vision tower to that of the language model."""

    def __init__(self, model: PiModel) -> None:
        super().__init__()
        self.linear = nn.Linear(model.vision.width, model.language.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


class PaliGemma(nn.Module):
    """The vision-language model, without its language head."""

    def __init__(self, model: PiModel) -> None:
        super().__init__()
        self.vision_tower = nn.ModuleDict({"vision_model": VisionTower(model.vision)})
        self.multi_modal_projector = Projector(model)
        self.language_model = LanguageModel(model.language, model.vocabulary, GEMMA)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor, list[KeysValues]]:
        """The final tokens [B, P, D], their mask [B, P], and the keys and values of every layer. Cameras come first, in order, then the prompt."""
        images = self.multi_modal_projector(self.vision_tower["vision_model"](inputs.images.flatten(0, 1)))
        words = self.language_model.embed_tokens(inputs.tokens)
        words = words * words.shape[-1] ** 0.5
        patches = images.shape[1]
        x = torch.cat([images.unflatten(0, inputs.images.shape[:2]).flatten(1, 2).to(words.dtype), words], 1)
        mask = torch.cat([inputs.image_mask[..., None].expand(-1, -1, patches).flatten(1), inputs.token_mask], 1)
        tokens, keys_values = self.language_model(x, mask)
        return tokens, mask, keys_values
