"""The interface of a policy.

Invariants:
- `act` samples decisions without gradient, and `evaluate` computes the log-probs of recorded decisions with gradient. With unchanged weights both give the same
  log-probs. So a probability ratio of 1 means that the weights have not changed;
- words become tensors in `tokenise`, on the host. After it, `act` and `evaluate` compute with tensors of the device alone, and never wait for the device. So
  `act` can be captured in a CUDA graph.

Shapes: B decisions, C actions in a chunk, A action dimensions, S the size of the state. Log-probs are per action and dimension, [B, C, A]. The loss sums them
as the recipe's algorithm.ratio asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlvla3.checkpoints.weight_files import read_header
from rlvla3.checkpoints.weights import check_finite_weight
from rlvla3.choices import Precision
from rlvla3.errors import ExplainedError
from rlvla3.policies.options import PolicyOptions
from rlvla3.policies.running_normalisation import RunningNormalisation
from rlvla3.policies.saved_policy import SavedPolicy, write_checkpoint_config
from rlvla3.types import Spaces

WEIGHTS = "model.safetensors"
"""The file of a saved policy that holds its weights."""


@dataclass(frozen=True, slots=True)
class Observations:
    """A batch of observations.

    images: {camera: uint8 [B, H, W, channels]}. state: float32 [B, S]. elapsed: float32 [B]. instructions: one for each observation.
    words: what the policy made of the instructions (`Policy.tokenise`), {name: [at most B, ...]}. It is empty before that, and for policies that do not read.
    It belongs to exactly these rows: whoever takes some rows of them leaves it out.
    """

    images: Mapping[str, Tensor]
    state: Tensor
    elapsed: Tensor
    instructions: Sequence[str]
    words: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.state)

    def to(self, device: torch.device | str) -> Observations:
        images, words = ({name: tensor.to(device, non_blocking=True) for name, tensor in given.items()} for given in (self.images, self.words))
        return replace(self, images=images, words=words, state=self.state.to(device, non_blocking=True), elapsed=self.elapsed.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Decisions:
    """A batch of decisions.

    actions, logprob: float32 [B, C, A]. value: float32 [B]. trace: the tensors that `evaluate` needs beside the actions, {name: [B, ...]}.
    """

    actions: Tensor
    logprob: Tensor
    value: Tensor
    trace: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Recorded decisions under the present weights, with gradient.

    logprob: [B, C, A]. entropy: [B, C, A], or None where the head has no closed form. value: [B].
    features: what `value_of` needs to compute the values of the same observations again, detached.
    """

    logprob: Tensor
    entropy: Tensor | None
    value: Tensor
    features: Mapping[str, Tensor]


class Policy(nn.Module, ABC):
    """A VLA policy with a value function.

    `Options` is the schema of `policy.options` in a recipe. It also defines the arrays of a decision's trace and the shape of its noise.
    """

    Options: ClassVar[type[PolicyOptions]]

    EarlierNames: ClassVar[Mapping[str, str]] = {}
    """{the name of a tensor in policies that earlier releases saved: its present name}."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """The number format of the network's passes. Weights, log-probs and values are float32 in either case."""

    def __init__(self, spaces: Spaces, chunk: int, options: PolicyOptions) -> None:
        super().__init__()
        self.spaces, self.chunk, self.options = spaces, chunk, options

    def tokenise(self, observations: Observations) -> Observations:
        """The observations, which are on the host, with their `words`: tensors on the host, made of the instructions.

        Make them here, and `act` can run from a CUDA graph. By default there are none, and `act` finds the instructions in the observations.
        """
        return observations

    def tokenised(self, observations: Observations) -> Observations:
        """The observations with their `words`, on the observations' own device. Words that are there already stay."""
        return observations if observations.words else self.tokenise(observations).to(observations.state.device)

    @abstractmethod
    def act(self, observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        """Make decisions, without gradient. noise: standard normal, [B, *noise_shape].

        explore: bool [B]. Where it is False, the decision is the policy's best, without exploration noise.
        """

    @abstractmethod
    def evaluate(self, observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        """The log-prob and the value of recorded decisions, with gradient. actions: [B, C, A]. trace: as `act` returned it."""

    @abstractmethod
    def value_of(self, features: Mapping[str, Tensor]) -> Tensor:
        """The value [B] of observations, from their `Evaluation.features`. Its gradient reaches only the critic's own parameters."""

    @abstractmethod
    def critic_parameters(self) -> list[nn.Parameter]:
        """The parameters that only the value function uses."""

    def clone_loss(self, observations: Observations, actions: Tensor, generator: torch.Generator) -> Tensor:
        """The behaviour-cloning loss of expert actions [B, H, A], H being `options.horizon_of(chunk)`: a scalar.

        generator: the source of the loss's random numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be cloned: it has no clone_loss")

    def initialise(self) -> None:
        """Draw random weights, for a policy without a checkpoint. By default they have been drawn when the policy was built."""

    def fit_normalisation(self, states: Tensor, actions: Tensor) -> None:
        """Set input and output scales from demonstrations: states [N, S], actions [N, H, A]. By default it does nothing."""

    def running_normalisations(self) -> Mapping[str, RunningNormalisation]:
        """What scales the policy's inputs by statistics that grow with each update of training, by the name of the input: `state`, or `image.CAMERA`.

        The trainer counts what was seen at the end of each update, and cloning fixes the statistics to those of the demonstrations. By default there are none.
        """
        return {}

    def compute_in(self, setting: Precision, device: torch.device) -> None:
        """Choose the number format of the passes. setting: training.precision. device: where the policy computes. Generators and trainer both call it, because
        a probability ratio compares their log-probs. Raises RecipeError where the policy cannot compute in that format.

        fp32 is never TF32: torch has it off for products by default, and for convolutions it is switched off here.
        """
        self._choose_precision(setting, on_gpu=device.type == "cuda")
        if device.type == "cuda" and self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False

    def passes(self) -> torch.autocast:
        """The context of the network's passes: with bf16, products, convolutions and attention compute in it, and weights stay float32.

        A policy with `Options.LowPrecision` enters it around its network, and leaves it before it computes log-probs and values. Within one outer
        torch.autocast, several of these contexts cast each weight once.
        """
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _choose_precision(self, setting: Precision, on_gpu: bool) -> None:
        self.precision = self.options.precision_of(setting, on_gpu)

    def actor_parameters(self) -> list[nn.Parameter]:
        """All trainable parameters except the critic's own."""
        critic = {id(parameter) for parameter in self.critic_parameters()}
        return [parameter for parameter in self.parameters() if parameter.requires_grad and id(parameter) not in critic]

    def acting_tensors(self) -> dict[str, Tensor]:
        """The tensors that decide how the policy acts and that training changes, by name: the actor's parameters, and the running statistics."""
        actor = {id(parameter) for parameter in self.actor_parameters()}
        running = {id(tensor) for scale in self.running_normalisations().values() for tensor in (scale.mean, scale.deviation)}
        parameters = {name: parameter for name, parameter in self.named_parameters() if id(parameter) in actor}
        return parameters | {name: buffer for name, buffer in self.named_buffers() if id(buffer) in running}

    def published(self) -> dict[str, Tensor]:
        """The tensors that are sent on the weight plane, by name: trainable parameters, and the persistent buffers, which cloning may have set."""
        trainable = {name: parameter.data for name, parameter in self.named_parameters() if parameter.requires_grad}
        persistent = self.state_dict().keys()
        return trainable | {name: buffer for name, buffer in self.named_buffers() if name in persistent}

    def sharded_blocks(self) -> list[nn.Module]:
        """The modules that FSDP shards and gathers one by one: layers. Each must be used only by calling it as a module.

        By default they are the members of every outermost nn.ModuleList.
        """
        lists = [module for module in self.modules() if isinstance(module, nn.ModuleList)]
        inner = {id(module) for layers in lists for layer in layers for module in layer.modules()}
        return [layer for layers in lists if id(layers) not in inner for layer in layers]

    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into `folder`.

        name: the recipe's name for this kind of policy. weights: the state to write. None means the policy's present state.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint_config(folder, SavedPolicy(name, self.chunk, self.spaces, self.options.model_dump(mode="json")))
        save_file({key: tensor.contiguous() for key, tensor in (weights or self.state_dict()).items()}, folder / WEIGHTS)

    def check_weights(self, folder: Path) -> None:
        """Raise PolicyError where the weights in `folder` do not fit this policy, by their header, and RecipeError where that cannot be read.

        The policy may be on the meta device.
        """
        path = folder / WEIGHTS
        stored = {self.EarlierNames.get(name, name): tuple(tensor.shape) for name, tensor in read_header(path, "a policy needs it").items()}
        saved = stored | {name: tuple(tensor.shape) for name, tensor in self._unsaved(stored).items()}
        own = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        wrong = [key for key in own.keys() | saved.keys() if key not in own or key not in saved or own[key] != saved[key]]
        if wrong:
            key = min(wrong)
            there, here = saved.get(key, "absent"), own.get(key, "absent")
            raise PolicyError(
                f"{folder} holds the weights of another policy: {len(wrong)} tensors differ, first {key}: {there} in the checkpoint, {here} in the "
                f"recipe's policy. Use the recipe (cameras, image size, chunk, policy.options) that the checkpoint was made with"
            )

    def restore(self, folder: Path) -> None:
        """Load the weights in `folder`, which a policy with the same spaces, chunk and options saved.

        Raises PolicyError where they do not fit, and RecipeError where they cannot be read, or a number is not finite.
        """
        self.check_weights(folder)
        path = folder / WEIGHTS
        try:
            saved = {self.EarlierNames.get(name, name): tensor for name, tensor in load_file(path).items()}
        except Exception as error:  # safetensors raises types of its own for damaged files, and OSError for missing ones
            raise PolicyError(f"cannot read the weights in {folder}: {error}. Give a folder with config.json and an intact {WEIGHTS}") from error
        for name, tensor in saved.items():
            own = self.state_dict()[name]
            if tensor.is_floating_point() != own.is_floating_point() or tensor.is_complex():
                raise PolicyError(f"{path}: {name} holds {tensor.dtype}, and the policy has {own.dtype} there. Copy the policy again")
            check_finite_weight(tensor, name, path)
        self.load_state_dict(saved | self._unsaved(saved))

    def _unsaved(self, saved: Collection[str]) -> dict[str, Tensor]:
        """The buffers of normalisations that an earlier release did not save, of the saved names: their statistics do not change."""
        modules = {name: module for name, module in self.named_modules() if isinstance(module, RunningNormalisation)}
        return {key: tensor for name, module in modules.items() for key, tensor in module.unsaved(name, saved).items()}


class PolicyError(ExplainedError, ValueError):
    """A policy or a checkpoint cannot be used. The message says what was found, what was expected, and what to do."""
