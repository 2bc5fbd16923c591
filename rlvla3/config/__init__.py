"""The settings of a run: one typed tree, and the recipes that fill it. Nothing here imports torch."""

from rlvla3.config.engine import PRESETS, ElasticConfig, EngineConfig, Mode
from rlvla3.config.learning import CORRECTION_NAMES, AlgorithmConfig, CorrectionConfig, CriticConfig, ReferenceConfig, TrainingConfig
from rlvla3.config.loading import check_options, load_recipe, make_recipe, write_recipe
from rlvla3.config.memory import MemoryConfig
from rlvla3.config.recipe import (
    CloneConfig,
    DemonstrationLayout,
    EvaluationConfig,
    Orientation,
    PlacementConfig,
    PolicyConfig,
    Recipe,
    SimulatorConfig,
    WeightsConfig,
)
from rlvla3.config.section import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section, Share
from rlvla3.errors import RecipeError

__all__ = [
    "CORRECTION_NAMES",
    "PRESETS",
    "AlgorithmConfig",
    "CloneConfig",
    "CorrectionConfig",
    "CriticConfig",
    "DemonstrationLayout",
    "ElasticConfig",
    "EngineConfig",
    "EvaluationConfig",
    "MemoryConfig",
    "Mode",
    "NonNegative",
    "NonNegativeFloat",
    "Orientation",
    "PlacementConfig",
    "PolicyConfig",
    "Positive",
    "PositiveFloat",
    "Recipe",
    "RecipeError",
    "ReferenceConfig",
    "Section",
    "Share",
    "SimulatorConfig",
    "TrainingConfig",
    "WeightsConfig",
    "check_options",
    "load_recipe",
    "make_recipe",
    "write_recipe",
]
