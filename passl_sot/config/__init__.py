"""The configuration language: YAML with inheritance and references, registries, and checks by signature."""

from passl_sot.config.chinese import zh
from passl_sot.config.dense_files import dense_configs, find_dense_config, read_meta, suite_of
from passl_sot.config.display import diff, differences, format_tree, leaves, texts
from passl_sot.config.epoch_schedule import (
    NonNegativeByEpoch,
    ShareByEpoch,
    UnitIntervalByEpoch,
    value_of_epoch,
)
from passl_sot.config.errors import (
    ConfigError,
    Fault,
    Origin,
    RegistryError,
    UserError,
    did_you_mean,
    nearest,
    same_letters,
)
from passl_sot.config.loader import Document, get_config, known_keys, load_config, model_config
from passl_sot.config.registry import Registry
from passl_sot.config.schema import make_section
from passl_sot.config.shipped import config_folder, find_config, list_models, read_card
from passl_sot.config.signature import (
    Count,
    Natural,
    NonNegative,
    NotEmpty,
    Positive,
    Range,
    Rule,
    Share,
    Width,
)
from passl_sot.config.tree import Config, path_of, value_at
