"""Models by name: every name is a YAML file under configs/, and sizes live there alone."""

import difflib
import fnmatch
from pathlib import Path

from passl_sot.utils.config import Config, ConfigError, Fault, get_config


def config_folder() -> Path:
    """Where the shipped configs lie: inside an installed wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _files() -> dict[str, Path]:
    return {p.stem: p for p in sorted(config_folder().glob("*/*.yaml")) if not p.parent.name.startswith("_")}


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes, sorted; `pattern` is a shell pattern such as "sot*"."""
    return sorted(fnmatch.filter(_files(), pattern))


def find_config(name: str | Path) -> Path:
    """The config file that a path or a model's name means.

    Raises:
        ConfigError: There is neither; names the nearest models.
    """
    path = Path(name)
    if path.is_file():
        return path
    files = _files()
    if str(name) in files:
        return files[str(name)]
    near = difflib.get_close_matches(path.stem, files, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; models: {', '.join(sorted(files))}"
    raise ConfigError([Fault("", f"no config file or model {str(name)!r}{hint}", kind="file")])


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    img_size: int | list[int] | None = None,
    weights: str | Path | None = None,
):
    """Builds a model by its config's name, in evaluation mode.

    Args:
        name: One of `list_models()`, or the path of a YAML file.
        num_classes: Other than the config's; the head's last layers are then new.
        img_size: Side in pixels, or [height, width], other than the config's.
        weights: Weights to load (a checkpoint of ours, `.safetensors` or `.pdparams`). Everything must fit,
            but for the head's last layers where `num_classes` differs; what was left new is logged.

    Returns:
        A `Classifier`: [B, 3, H, W] to logits [B, num_classes].

    Raises:
        ConfigError: Unknown name, or values that the model refuses.
        CheckpointError: Weights that can't be read or don't fit.
    """
    from passl_sot.modeling.classifier import Classifier

    cfg = model_config(name)
    if num_classes is not None:
        cfg.model.head.num_classes = num_classes
    if img_size is not None:
        cfg.model.architecture.img_size = img_size
    model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
    if weights is not None:
        _load(model, weights, may_differ=num_classes is not None)
    model.eval()
    return model


def _load(model, weights: str | Path, *, may_differ: bool) -> None:
    from passl_sot.engine import state
    from passl_sot.engine.checkpoint import read_weights
    from passl_sot.utils.logger import get_logger

    arrays, _ = read_weights(weights)
    if may_differ:
        get_logger().info(state.start_from(model, arrays, str(weights)))
    else:
        state.load_model(model, arrays, str(weights))


def model_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a config of which only the `model:` section is needed.

    Raises:
        ConfigError: It is faulty or has no such section.
    """
    cfg = get_config(find_config(path), overrides)
    if "model" not in cfg:
        raise ConfigError([Fault("model", f"{path} has no such section")])
    return cfg
