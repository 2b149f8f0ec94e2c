"""Every option of every stage: one strict class per stage, units in the names, nothing else anywhere.

A YAML file is read into `RunConfig`; ``--set stage.key=value`` changes single keys; an unknown key is an error with the
nearest known name. Paths are relative to the YAML file they stand in, so a run can be started from any folder.
"""

from __future__ import annotations

from lgsid.config.align import (
    AlignConfig,
    AlignmentConfig,
    ContrastConfig,
    EncoderConfig,
    GuardConfig,
    LoraConfig,
    PairConfig,
    PromptConfig,
    RewardConfig,
    TeacherConfig,
)
from lgsid.config.autoencoder import AutoencoderConfig, GnprConfig, NgramConfig, RqVaeConfig, UnifiedConfig
from lgsid.config.base import Strict
from lgsid.config.data import DataConfig
from lgsid.config.generate import ExpertConfig, GenerateConfig, PreferenceConfig, SessionConfig
from lgsid.config.rank import RankConfig, SampleConfig, SearchConfig
from lgsid.config.reading import apply_overrides, load_run_config, load_yaml, parse
from lgsid.config.run import ReportConfig, RunConfig
from lgsid.config.sid import GeoFeatureConfig, SidConfig
from lgsid.config.simple import GeoGridConfig, ResKMeansConfig, TwoStreamConfig
from lgsid.config.training import TrainerConfig
from lgsid.config.world import ChoiceConfig, ExposureConfig, WorldConfig

__all__ = [
    "AlignConfig",
    "AlignmentConfig",
    "AutoencoderConfig",
    "ChoiceConfig",
    "ContrastConfig",
    "DataConfig",
    "EncoderConfig",
    "ExpertConfig",
    "ExposureConfig",
    "GenerateConfig",
    "GeoFeatureConfig",
    "GeoGridConfig",
    "GnprConfig",
    "GuardConfig",
    "LoraConfig",
    "NgramConfig",
    "PairConfig",
    "PreferenceConfig",
    "PromptConfig",
    "RankConfig",
    "ReportConfig",
    "ResKMeansConfig",
    "RewardConfig",
    "RqVaeConfig",
    "RunConfig",
    "SampleConfig",
    "SearchConfig",
    "SessionConfig",
    "SidConfig",
    "Strict",
    "TeacherConfig",
    "TrainerConfig",
    "TwoStreamConfig",
    "UnifiedConfig",
    "WorldConfig",
    "apply_overrides",
    "load_run_config",
    "load_yaml",
    "parse",
]
