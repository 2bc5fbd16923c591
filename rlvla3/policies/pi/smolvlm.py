"""SmolVLM2 (Marafioti et al., arXiv 2504.05299) as SmolVLA uses it: it reads images, prompt and state at once, and writes no text.

    images -> SigLIP -> joined patches * sqrt(width) --+
    prompt -> embedding * sqrt(width) -----------------+-> Llama -> final tokens, keys and values of every layer
    state (embedded by SmolVLA) -----------------------+

Images and prompt attend to each other fully, and not to the state. The state attends to all. Masked cameras and padding of the prompt are hidden: nobody
attends to them, and they take no position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rlvla3.policies.pi.siglip import VisionTower
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from rlvla3.policies.vla.decoder import LLAMA, KeysValues, LanguageModel
from rlvla3.policies.vla.network import Inputs
from rlvla3.processing.constants import constant


class Connector(nn.Module):
    """Joins each square of `shuffle` x `shuffle` patches to one token of the language model."""

    def __init__(self, model: SmolVLAModel) -> None:
        super().__init__()
        self.side, self.shuffle = model.vision.image // model.vision.patch // model.shuffle, model.shuffle
        self.modality_projection = nn.ModuleDict({"proj": nn.Linear(model.vision.width * model.shuffle**2, model.language.width, bias=False)})

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [I, patches of an image, width of the vision tower], row by row. Returns [I, side^2, width of the language model]."""
        squares = patches.unflatten(1, (self.side, self.shuffle, self.side, self.shuffle)).transpose(2, 3)
        out: Tensor = self.modality_projection["proj"](squares.flatten(3).flatten(1, 2))
        return out


class SmolVLM(nn.Module):
    """The vision-language model, without its language head."""

    def __init__(self, model: SmolVLAModel) -> None:
        super().__init__()
        self.scale, self.image_start, self.image_end = math.sqrt(model.language.width), model.image_start, model.image_end
        self.vision_model, self.connector = VisionTower(model.vision), Connector(model)
        self.text_model = LanguageModel(model.language, model.vocabulary, LLAMA)

    def forward(self, inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor, list[KeysValues]]:
        """state: [B, 1, D], embedded. Returns the final tokens [B, P, D], their mask [B, P], and the keys and values of every layer.

        Cameras come first, in order, then the prompt, then the state.
        """
        words = self.text_model.embed_tokens(inputs.tokens) * self.scale
        images, seen = self._images(inputs)
        x = torch.cat([images.to(words), words, state.to(words)], 1)
        mask = torch.cat([seen, inputs.token_mask, seen.new_ones(len(inputs), 1)], 1)
        is_state = torch.arange(x.shape[1], device=x.device) == x.shape[1] - 1
        allowed = is_state[:, None] | ~is_state
        tokens, keys_values = self.text_model(x, mask, allowed)
        return tokens, mask, keys_values

    def _images(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The tokens of all cameras, [B, N * tokens, D], and which of them are seen."""
        tokens = self.connector(self.vision_model(inputs.images.flatten(0, 1))) * self.scale
        tokens = tokens.unflatten(0, inputs.image_mask.shape)
        mask = inputs.image_mask[..., None].expand(-1, -1, tokens.shape[2])
        if not self.image_start and not self.image_end:
            return tokens.flatten(1, 2), mask.flatten(1, 2)
        # The authors do not scale the special tokens around an image, and show them also where there is no image.
        start, end = self._special(self.image_start, tokens), self._special(self.image_end, tokens)
        always = [mask.new_ones(*mask.shape[:2], special.shape[2]) for special in (start, end)]
        return torch.cat([start, tokens, end], 2).flatten(1, 2), torch.cat([always[0], mask, always[1]], 2).flatten(1, 2)

    def _special(self, ids: list[int], tokens: Tensor) -> Tensor:
        """The embedded tokens `ids` for every camera: [B, N, ids, D]."""
        embedded: Tensor = self.text_model.embed_tokens(constant(tuple(ids), torch.int64, tokens.device))
        return embedded.to(tokens).expand(*tokens.shape[:2], -1, -1)
