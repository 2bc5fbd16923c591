"""A pretrained policy: processing, a family's network, an action head and a value function.

    observations -> Processor -> Inputs -> Network.encode -> prefix     once for each decision
    prefix, partly denoised actions -> Network.decode -> head           once for each denoising step
    actions of the model -> Processor -> actions of the simulator

Invariants:
- the model computes a horizon of H actions with A dimensions, and the simulator executes the first C of them, in its own dimensions. Only those have a
  log-prob in `Decisions` and `Evaluation`;
- `evaluate` makes the same calls of the network as `act`, with the same shapes. So with unchanged weights both give the same log-probs to the last bit;
- log-probs, values and everything that the head computes are float32, whatever the precision of the network's passes;
- a part that is not trained has no gradient, and is not sent on the weight plane;
- a saved policy is whole: it has its tokenizer, and what an export needs. A run outlives the folder that its policy came from.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rlvla3.checkpoints.checkpoint import find_checkpoint, read_checkpoint
from rlvla3.checkpoints.weights import fitting_weights, load_weights
from rlvla3.choices import Precision
from rlvla3.config import check_options
from rlvla3.config.policy import is_saved_policy
from rlvla3.policies.base import Decisions, Evaluation, Observations, Policy
from rlvla3.policies.heads import ActionHead, Model
from rlvla3.policies.saved_policy import read_checkpoint_config
from rlvla3.policies.vla.adapters import add_adapters, base_tensors
from rlvla3.policies.vla.network import Network, Prefix
from rlvla3.policies.vla.options import PARTS, Part, VLAOptions
from rlvla3.policies.vla.origin import ORIGINAL, Origin
from rlvla3.policies.vla.start import NOT_FITTED, TOKENIZER
from rlvla3.policies.vla.value import ValueHead
from rlvla3.processing.constants import constant
from rlvla3.processing.processor import Processor
from rlvla3.processing.specification import Processing
from rlvla3.processing.statistics import computed
from rlvla3.processing.tokenizer_files import tokenizer_contents
from rlvla3.types import Spaces


class VLAPolicy(Policy):
    """A policy of one of the families. A family gives its network, its head and its options."""

    options: VLAOptions

    def __init__(self, spaces: Spaces, chunk: int, options: VLAOptions) -> None:
        super().__init__(spaces, chunk, options)
        self.processor = Processor(options.processing, spaces)
        self._tokenizer = tokenizer_contents(options.processing.prompt.tokenizer)
        with WithoutInitialisation():  # the weights come from a checkpoint, or from `initialise`
            self.network = self.make_network()
        self.head = self.make_head()
        width = self.network.prefix_width if options.value.features == "prefix" else self.network.feature_width
        self.critic = ValueHead(width, options.value.hidden)
        self.origin: Origin | None = None
        self.precision = options.precision_of("auto", on_gpu=torch.cuda.is_available())
        self._choose_trained()

    @abstractmethod
    def make_network(self) -> Network[Any]:
        """The family's network, of the sizes in `options`."""

    @abstractmethod
    def make_head(self) -> ActionHead:
        """The head that turns the network's outputs into actions."""

    def tokenise(self, observations: Observations) -> Observations:
        return replace(observations, words=self.processor.words(observations))

    @torch.no_grad()
    def act(self, observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        prefix = self._encode(observations)
        sample = self.head.sample(self._model(prefix), noise, explore)
        actions = self.processor.to_simulator(sample.actions[:, : self.chunk], observations.state)
        value = self.value_of(self._value_features(prefix, sample.features, observations.elapsed))
        return Decisions(actions, self._executed(sample.logprob), value, sample.trace)

    def evaluate(self, observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        prefix = self._encode(observations)
        recorded = self.head.evaluate(self._model(prefix), trace)
        features = self._value_features(prefix, recorded.features, observations.elapsed)
        return Evaluation(self._executed(recorded.logprob), self._executed(recorded.entropy), self.value_of(features), features)

    def value_of(self, features: Mapping[str, Tensor]) -> Tensor:
        value: Tensor = self.critic(**features)
        return value

    def critic_parameters(self) -> list[nn.Parameter]:
        return list(self.critic.parameters())

    def clone_loss(self, observations: Observations, actions: Tensor, generator: torch.Generator) -> Tensor:
        """actions: [B, H, A], the horizon that the experts made from these observations on. Dimensions that the simulator does not execute do not count."""
        counted = constant(tuple(sorted(self.processor.action_dimensions)), torch.int64, actions.device)
        targets = self.processor.to_model(actions, observations.state)
        return self.head.clone_loss(self._model(self._encode(observations)), targets, generator, counted)

    @torch.no_grad()
    def fit_normalisation(self, states: Tensor, actions: Tensor) -> None:
        """Compute the statistics that no checkpoint has given. states: [N, S]. actions: [N, H, the simulator's A]."""
        processing, quantiles = self.options.processing, self.options.Statistics == "quantiles"
        state, action, fed = processing.state, processing.actions, self.processor.fed(states)
        if state.normalisation.source == NOT_FITTED:
            how = computed(fed, state.normalisation, quantiles=quantiles)
            state = state.model_copy(update={"normalisation": how})
        if action.normalisation.source == NOT_FITTED:
            how = computed(self.processor.actions.before_scaling(actions, fed), action.normalisation, quantiles=quantiles)
            action = action.model_copy(update={"normalisation": how})
        self._take_statistics(processing.model_copy(update={"state": state, "actions": action}))

    def initialise(self) -> None:
        self.network.initialise(torch.default_generator)
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if ".lora_B" in name:  # new adapters change nothing
                    parameter.zero_()

    def check_weights(self, folder: Path) -> None:
        if is_saved_policy(folder):
            super().check_weights(folder)
        else:
            fitting_weights(base_tensors(self.network), read_checkpoint(find_checkpoint(str(folder)), statistics=self.options.statistics))

    def restore(self, folder: Path) -> None:
        """Load the weights of a policy that rlvla3 saved, or those of a pretrained checkpoint, which has no value function and no adapters.

        Casts, and tensors without a use, are logged.
        """
        if is_saved_policy(folder):
            super().restore(folder)
            self._take_statistics(check_options(Processing, read_checkpoint_config(folder).options["processing"], str(folder)))
            self.origin = Origin.kept_in(folder / ORIGINAL)
        else:
            checkpoint = read_checkpoint(find_checkpoint(str(folder)), statistics=self.options.statistics)
            for sentence in load_weights(base_tensors(self.network), checkpoint):
                logging.getLogger(__name__).warning("rlvla3: %s", sentence)  # in a run, it goes to the log of the worker
            self.origin = Origin(checkpoint)

    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor] | None = None) -> None:
        super().save(folder, name, weights)
        for file, content in self._tokenizer.items():
            (folder / TOKENIZER).mkdir(exist_ok=True)
            (folder / TOKENIZER / file).write_bytes(content)
        if self.origin is not None:
            self.origin.keep(folder / ORIGINAL)

    def _choose_precision(self, setting: Precision, on_gpu: bool) -> None:
        """The policy's own option has decided when it was built, because frozen weights are kept in that format. Raises RecipeError for another setting."""
        self.options.precision_of(setting, on_gpu)

    def _take_statistics(self, processing: Processing) -> None:
        self.processor.state_scale.fit(processing.state.normalisation)
        self.processor.actions.scale.fit(processing.actions.normalisation)
        self.options = self.options.model_copy(update={"processing": processing})

    def _encode(self, observations: Observations) -> Prefix:
        inputs = self.processor.inputs(observations, observations.words)
        with self.passes():
            prefix: Prefix = self.network.encode(inputs)
        return prefix

    def _model(self, prefix: Prefix) -> Model:
        def decode(points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
            with self.passes():
                outputs, features = self.network.decode(prefix, points, times)
            return outputs.to(points.dtype), features.to(points.dtype)

        return decode

    def _executed(self, computed: Tensor) -> Tensor:
        """What belongs to executed actions, [B, C, the simulator's A], of what belongs to the model's actions [B, H, A]."""
        return computed[:, : self.chunk, constant(tuple(self.processor.action_dimensions), torch.int64, computed.device)]

    def _value_features(self, prefix: Prefix, features: Tensor, elapsed: Tensor) -> dict[str, Tensor]:
        """The inputs of the value function, detached. features: [B, H, E]."""
        seen = prefix.mean() if self.options.value.features == "prefix" else features.mean(1)
        like = next(self.critic.parameters())
        return {"seen": seen.detach().to(like.dtype), "elapsed": elapsed.to(like)}

    def _choose_trained(self) -> None:
        """Freeze what is not trained, and add the adapters."""
        lora = self.options.lora
        adapted: list[Part] = lora.parts if lora else []
        for name in PARTS:
            for module in self.network.part(name):
                module.requires_grad_(name in self.options.train and name not in adapted)
        if lora:
            add_adapters(self.network, [module for name in adapted for module in self.network.part(name)], lora)
        for parameter in self.network.unreached():
            parameter.requires_grad_(False)
        if self.precision == "bf16":
            encoder = (module for name in PARTS[:2] for module in self.network.part(name))
            for parameter in (parameter for module in encoder for parameter in module.parameters()):
                if not parameter.requires_grad and parameter.dim() >= 2:
                    parameter.data = parameter.data.bfloat16()


class WithoutInitialisation(TorchFunctionMode):
    """Within the block, torch.nn.init leaves tensors as they are. Random numbers for billions of weights that are loaded anyway would take a minute."""

    def __torch_function__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        named = named or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else arguments[0]
        return function(*arguments, **named)
