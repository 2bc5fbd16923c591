"""GR00T N1.5: a vision-language backbone that encodes the observation, and an action head that denoises chunks.

Parameters have the names of the published checkpoint. Of that checkpoint, two things are not used and not here: SigLIP's pooling head, and the language model's
output layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rlvla3.policies.groot.action_head import GrootActionHead, GrootPrefix
from rlvla3.policies.groot.backbone import Backbone
from rlvla3.policies.groot.options import GrootModel
from rlvla3.policies.vla.network import Inputs, Network
from rlvla3.policies.vla.options import Part


class GR00T(Network[GrootPrefix]):
    """GR00T N1.5, whose heads are flow heads.

    The prompt has the token `model.language.image_token` once for each image token: `model.vision.tokens` times for each camera that is there, in order.
    """

    def __init__(self, model: GrootModel) -> None:
        super().__init__()
        self.horizon, self.action_size = model.horizon, model.action_size
        self.prefix_width, self.feature_width = model.prefix_width, model.hidden
        self.backbone = Backbone(model)
        self.action_head = GrootActionHead(model)

    def encode(self, inputs: Inputs) -> GrootPrefix:
        """The prefix tokens are what the action head attends to: the backbone's hidden states after `vlln` and `vl_self_attention`.

        Parameters of the action head take part, so its gradient flows through the prefix even where the backbone is frozen.
        """
        return self.action_head.encode(self.backbone(inputs), inputs.token_mask, inputs.state)

    def decode(self, prefix: GrootPrefix, points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        return self.action_head.decode(prefix, points, times)

    def part(self, name: Part) -> Sequence[nn.Module]:
        """The modules of a part. `vision` is what the authors' `tune_visual` trains, and `language` what `tune_llm` trains.

        `expert` is divided. Its `model` is what `tune_diffusion_model` trains. The encoders, the decoder and the position embedding are what `tune_projector`
        trains. The authors always train the rest of it.
        """
        eagle = self.backbone.eagle_model
        if name == "vision":
            return [eagle.vision_model, eagle.mlp1]
        if name == "language":
            return [eagle.language_model]
        return [self.backbone.eagle_linear, *self.action_head.children()]
