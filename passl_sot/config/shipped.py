"""The configs that come with the package: every model's name is a YAML file under configs/."""

import difflib
import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from passl_sot.config.errors import ConfigError, Fault
from passl_sot.config.loader import get_config
from passl_sot.config.tree import Config

# Parts of other projects' names that say sizes: patch16, window7, 224.
_SIZE = re.compile(r"(?:patch|window)\d+|\d{3}")


def config_folder() -> Path:
    """Where the shipped configs lie: inside an installed wheel, or at the top of a checkout."""
    # A wheel holds them inside the package, where setup.py puts them.
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _files() -> dict[str, Path]:
    return {p.stem: p for p in sorted(config_folder().glob("*/*.yaml")) if not p.parent.name.startswith("_")}


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes, sorted; `pattern` is a shell pattern such as "sot*"."""
    return sorted(fnmatch.filter(_files(), pattern))


def find_config(name: str | Path) -> Path:
    """The config file that a path or a model's name means; a ConfigError names the nearest models."""
    path = Path(name)
    if path.is_file():
        return path
    files = _files()
    if str(name) in files:
        return files[str(name)]
    ours, settings = _translate(path.name.removesuffix(".yaml"), files)
    if ours:
        hint = "; here it is " + " ".join([f"'{ours}'", *["with -o"] * bool(settings), *settings])
        raise ConfigError([Fault("", f"no config file or model {str(name)!r}{hint}", None, "file", ours)])
    # Here several are told: names of models differ by a letter or two, such as their sizes.
    near = difflib.get_close_matches(path.stem, files, n=3)
    hint = f"; models: {', '.join(sorted(files))}"
    if near:
        hint = f"; did you mean {' or '.join(near)}?"
    raise ConfigError([Fault("", f"no config file or model {str(name)!r}{hint}", kind="file")])


def _translate(name: str, ours: Iterable[str]) -> tuple[str | None, list[str]]:
    """The model that timm, PaddleClas or its authors call `name`, and what to set for the sizes in that.

    Their names end in sizes, and those of timm's weights in a tag: swin_base_patch4_window12_384.ms_in22k.
    """
    words = re.split("[_-]", name.partition(".")[0].lower().replace("swintransformer", "swin"))
    core = "".join(word for word in words if not _SIZE.fullmatch(word))
    size = next(filter(str.isdecimal, filter(_SIZE.fullmatch, words)), "224")
    window = next((word.removeprefix("window") for word in words if word.startswith("window")), "7")
    plain = {model.replace("_", ""): model for model in ours}
    found = plain.get(core + size)
    settings = []
    if not found:
        found = plain.get(core)
        if size != "224":
            settings.append(f"model.architecture.img_size={size}")
    if window != "7":
        settings.append(f"model.architecture.window_size={window}")
    return found, settings


def model_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a config of which only the `model:` section is needed; a ConfigError if it has none."""
    cfg = get_config(find_config(path), overrides)
    if "model" not in cfg:
        raise ConfigError([Fault("model", f"{path} has no such section")])
    return cfg
