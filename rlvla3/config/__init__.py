"""The settings of a run: one typed tree, and the recipes that fill it. Nothing here imports torch."""

from rlvla3.config.cloning import CloneConfig, DemonstrationLayout, Orientation
from rlvla3.config.delay import Delay, DelayConfig
from rlvla3.config.engine import PRESETS, ElasticConfig, EngineConfig, Mode
from rlvla3.config.evaluation import EvaluationConfig
from rlvla3.config.initial_states import InitialStatesConfig, Split
from rlvla3.config.learning import CORRECTION_NAMES, AlgorithmConfig, CorrectionConfig, CriticConfig, ReferenceConfig, TrainingConfig
from rlvla3.config.loading import check_options, load_recipe, make_recipe, recipe_text, write_recipe
from rlvla3.config.memory import MemoryConfig
from rlvla3.config.overrides import Overrides, set_by
from rlvla3.config.placement import PlacementConfig, RayConfig
from rlvla3.config.policy import PolicyConfig
from rlvla3.config.recipe import Recipe
from rlvla3.config.section import ExpandedPath, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section, Share, path_of
from rlvla3.config.simulator import SimulatorConfig
from rlvla3.config.trackers import TrackersConfig
from rlvla3.config.weights import WeightsConfig

__all__ = [
    "CORRECTION_NAMES",
    "PRESETS",
    "AlgorithmConfig",
    "CloneConfig",
    "CorrectionConfig",
    "CriticConfig",
    "Delay",
    "DelayConfig",
    "DemonstrationLayout",
    "ElasticConfig",
    "EngineConfig",
    "EvaluationConfig",
    "ExpandedPath",
    "InitialStatesConfig",
    "MemoryConfig",
    "Mode",
    "NonNegative",
    "NonNegativeFloat",
    "Orientation",
    "Overrides",
    "PlacementConfig",
    "PolicyConfig",
    "Positive",
    "PositiveFloat",
    "RayConfig",
    "Recipe",
    "ReferenceConfig",
    "Section",
    "Share",
    "SimulatorConfig",
    "Split",
    "TrackersConfig",
    "TrainingConfig",
    "WeightsConfig",
    "check_options",
    "load_recipe",
    "make_recipe",
    "path_of",
    "recipe_text",
    "set_by",
    "write_recipe",
]
