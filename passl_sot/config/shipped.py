"""The configs that come with the package: every model's name is a YAML file under configs/."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from passl_sot.config.errors import ConfigError, Fault, nearest
from passl_sot.config.yaml_text import Builder, read_text

# Parts of other projects' names that say sizes: patch16, window7, 224.
_SIZE = re.compile(r"(?:patch|window)\d+|\d{3}")
# The folder of configs that other projects read: those of segmenters and detectors.
DENSE = "dense"


def config_folder() -> Path:
    """Where the shipped configs lie: inside an installed wheel, or at the top of a checkout."""
    # A wheel holds them inside the package, where setup.py puts them.
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    if inside.is_dir():
        return inside
    return package.parent / "configs"


def _files() -> dict[str, Path]:
    others = ("_", DENSE)
    found = sorted(config_folder().glob("*/*.yaml"))
    return {path.stem: path for path in found if not path.parent.name.startswith(others)}


def list_models(pattern: str | Sequence[str] = "*") -> list[str]:
    """Names that `create_model` takes, sorted.

    Args:
        pattern: A shell pattern such as "sot*", or several, of which a name must match one.
    """
    if isinstance(pattern, str):
        pattern = [pattern]
    return sorted({name for one in pattern for name in fnmatch.filter(_files(), one)})


def read_card(name: str) -> dict[str, Any]:
    """The `meta:` section of a model's config: sizes and published accuracy, where they are known.

    Only the model's own file is read, and those of models among its bases: the parts in `_base_` have no
    card, and take most of the time.
    """
    files = _files()
    file = str(files[name])
    tree: dict[str, Any] = Builder(read_text(file), file).value or {}
    bases = tree.get("_base_", [])
    if not isinstance(bases, list):
        bases = [bases]
    card: dict[str, Any] = {}
    for base in bases:
        if Path(base).stem in files:
            card |= read_card(Path(base).stem)
    return card | (tree.get("meta") or {})


def shipped_config(name: str) -> Path | None:
    """The shipped file that `sot_small` or `configs/sot/sot_small.yaml` means, wherever it is named."""
    if name in (files := _files()):
        return files[name]
    first, *parts = PurePosixPath(name).parts or ("",)
    path = config_folder().joinpath(*parts)
    if first == "configs" and ".." not in parts and path.is_file():
        return path
    return None


def nearby_shipped(name: str) -> str | None:
    """How the shipped file most likely meant by a name that leads nowhere would have to be named."""
    # A shipped file that was copied elsewhere names those beside it.
    path = PurePosixPath("configs", *PurePosixPath(name).parts[-2:])
    if shipped_config(str(path)):
        return str(path)
    return nearest(path.stem, _files(), cutoff=0.8)


def find_config(name: str | Path) -> Path:
    """The config file that a path or a model's name means; a ConfigError names the nearest models.

    A path in `configs/` that doesn't lead to a file means the shipped one.
    """
    path = Path(name)
    if path.is_file():
        return path
    if shipped := shipped_config(str(name)):
        return shipped
    files = _files()
    ours, settings = _translate(path.name.removesuffix(".yaml"), files)
    if ours:
        hint = "; here it is " + " ".join([f"'{ours}'", *["with -o"] * bool(settings), *settings])
        raise ConfigError([Fault("", f"no config file or model {str(name)!r}{hint}", None, "file", ours)])
    # Here several are told: names of models differ by a letter or two, such as their sizes.
    near = difflib.get_close_matches(path.stem, files, n=3)
    hint = f"; `passl-sot list` shows the {len(files)} models"
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
