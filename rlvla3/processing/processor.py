"""All processing of a policy: observations become what its network is fed, and the network's answers become actions of the simulator.

Invariants: it does what its `Processing` says and nothing else. What an observation becomes does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import pad

from rlvla3.processing.actions import Actions, in_place, places
from rlvla3.processing.fitting import check_fits
from rlvla3.processing.images import Images
from rlvla3.processing.inputs import Inputs, Observed
from rlvla3.processing.normalisation import Scale
from rlvla3.processing.prompts import Prompts
from rlvla3.processing.specification import Processing
from rlvla3.types import Spaces


class Processor(nn.Module):
    """Feeds the model of a policy. It has no parameters. Its buffers are the statistics of states and actions.

    Example:
        inputs = processor.inputs(observations)                  # the network is fed these
        actions = processor.to_simulator(chunks, observations.state)
    """

    def __init__(self, processing: Processing, spaces: Spaces) -> None:
        """Raises RecipeError if the processing does not fit the simulator, or if the tokenizer cannot be loaded."""
        super().__init__()
        check_fits(processing, spaces)
        self.processing, self.spaces = processing, spaces
        self._dimensions = in_place(processing.state.dimensions)
        self._images, self.state_scale = Images(processing.images), Scale(processing.state.normalisation)
        shown = sum(camera.camera is not None for camera in processing.images.cameras)
        self.prompts, self.actions = Prompts(processing.prompt, shown), Actions(processing.actions, spaces.action)
        self.prompts.check(spaces.instructions, len(processing.state.dimensions) or spaces.state)

    @property
    def action_dimensions(self) -> list[int]:
        """The model's action dimensions that the simulator executes, in the simulator's order."""
        return self.actions.dimensions

    def words(self, observations: Observed) -> dict[str, Tensor]:
        """The prompts, on the host: tokens int64 [B, L] and token_mask bool [B, L]. Raises RecipeError for a prompt that is too long."""
        state = self.state_scale.scale(self.fed(observations.state.cpu())) if self.prompts.has_state else None
        tokens, mask = self.prompts(observations.instructions, state)
        return {"tokens": tokens, "token_mask": mask}

    def inputs(self, observations: Observed, words: Mapping[str, Tensor] | None = None) -> Inputs:
        """What the network is fed, on the observations' device. words: of these observations. They are made here where they are not given.

        Raises RecipeError for a prompt that is too long.
        """
        state = self.state_scale.scale(self.fed(observations.state))
        images, image_mask = self._images(observations.images, len(state), state.device)
        tokens, token_mask = ((words or self.words(observations))[name].to(state.device, non_blocking=True) for name in ("tokens", "token_mask"))
        size = self.processing.state.size or 0
        padded = pad(state.float(), (0, size - state.shape[-1])) if size else state.float()[:, :0]
        return Inputs(images, image_mask, tokens, token_mask, padded)

    def to_simulator(self, chunks: Tensor, state: Tensor) -> Tensor:
        """The model's chunks [B, H, A], decided from the simulator's state [B, S] -> actions within the simulator's bounds, float32 [B, H, A']."""
        return self.actions.to_simulator(chunks, self.fed(state))

    def to_model(self, actions: Tensor, state: Tensor) -> Tensor:
        """The inverse, for demonstrations: the simulator's actions [B, H, A'] -> the model's chunks, float32 [B, H, A]."""
        return self.actions.to_model(actions, self.fed(state))

    def fed(self, state: Tensor) -> Tensor:
        """The numbers of the simulator's state that the model is fed."""
        return state[..., places(self._dimensions, state.device)] if self._dimensions else state
