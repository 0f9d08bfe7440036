"""The configs that come with the package: every model's name is a YAML file under configs/."""

import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path

from passl_sot.config.errors import ConfigError, Fault
from passl_sot.config.loader import get_config
from passl_sot.config.tree import Config


def config_folder() -> Path:
    """Where the shipped configs lie: inside an installed wheel, or at the top of a checkout."""
    # A wheel holds them inside the package, where setup.py puts them.
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _files() -> dict[str, Path]:
    return {p.stem: p for p in sorted(config_folder().glob("*/*.yaml")) if not p.parent.name.startswith("_")}


def list_models(pattern: str | Sequence[str] = "*") -> list[str]:
    """Names that `create_model` takes, sorted; by a shell pattern such as "sot*", or by any of several."""
    patterns = [pattern] if isinstance(pattern, str) else pattern
    return sorted({name for one in patterns for name in fnmatch.filter(_files(), one)})


def find_config(name: str | Path) -> Path:
    """The config file that a path or a model's name means; a ConfigError names the nearest models."""
    path = Path(name)
    if path.is_file():
        return path
    files = _files()
    if str(name) in files:
        return files[str(name)]
    # Here several are told: names of models differ by a letter or two, such as their sizes.
    near = difflib.get_close_matches(path.stem, files, n=3)
    hint = f"; models: {', '.join(sorted(files))}"
    if near:
        hint = f"; did you mean {' or '.join(near)}?"
    raise ConfigError([Fault("", f"no config file or model {str(name)!r}{hint}", kind="file")])


def model_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a config of which only the `model:` section is needed; a ConfigError if it has none."""
    cfg = get_config(find_config(path), overrides)
    if "model" not in cfg:
        raise ConfigError([Fault("model", f"{path} has no such section")])
    return cfg
