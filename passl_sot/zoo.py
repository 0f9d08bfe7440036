"""Models by name: every name is a YAML file under configs/, and sizes live there alone."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from passl_sot.config import ConfigError, config_folder, find_config, list_models, model_config

if TYPE_CHECKING:
    from passl_sot.interop import ConversionReport
    from passl_sot.modeling.classifier import Classifier, FeatureMaps

__all__ = ["config_folder", "create_model", "find_config", "list_models", "load_weights", "model_config"]

# Settings of timm's create_model that have another place here.
_OF_TIMM = {
    "checkpoint_path": "write pretrained=FILE",
    "pretrained_cfg": "write pretrained=FILE",
    "weights": "write pretrained=FILE",
    "global_pool": "it is model.head.pool of a config, which create_model takes by its path",
}


@overload
def create_model(
    name: str | Path, pretrained: bool | str | Path = ..., *, features_only: Literal[True], **options: Any
) -> "FeatureMaps": ...


@overload
def create_model(
    name: str | Path,
    pretrained: bool | str | Path = ...,
    *,
    num_classes: int | None = ...,
    in_chans: int | None = ...,
    img_size: int | Sequence[int] | None = ...,
    drop_path_rate: float | None = ...,
    features_only: Literal[False] = ...,
    out_indices: None = ...,
    **options: Any,
) -> "Classifier": ...


def create_model(
    name: str | Path,
    pretrained: bool | str | Path = False,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | Sequence[int] | None = None,
    drop_path_rate: float | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> "Classifier | FeatureMaps":
    """Builds a model by its config's name, in evaluation mode: [B, in_chans, H, W] to [B, num_classes].

    Args:
        name: One of `list_models()`, or the path of a YAML file.
        pretrained: True for the authors' published weights, which are fetched once (docs/convert.md); a name
            of such, or a file as of `load_weights`. The report is `model.weights_report`.
        num_classes: Other than the config's; the head's last layers are then new. 0 for none: the model
            gives the features [B, F] that they would take.
        in_chans: Channels of the images, other than the config's.
        img_size: Side in pixels, or [height, width], other than the config's.
        drop_path_rate: Stochastic depth for training, other than the config's.
        features_only: Whether to build a `FeatureMaps` instead: its output is a list of maps [B, C, H', W'].
        out_indices: Which ones, as positions in its backbone's `feature_info`; None for all.
        options: Further settings of the backbone, as under `model.architecture` in a config.

    Raises:
        ConfigError: Unknown name, or settings that the model refuses.
        CheckpointError: The weights can't be had, or don't fit.
        NotPublishedError: None were published; names the nearest.
        ValueError: No such map, or `out_indices` without `features_only`.
    """
    from passl_sot.modeling.classifier import FeatureMaps
    from passl_sot.modeling.schema import read_model

    if out_indices is not None and not features_only:
        raise ValueError("out_indices chooses among feature maps: write features_only=True too")
    options |= {"in_chans": in_chans, "img_size": img_size, "drop_path_rate": drop_path_rate}
    start = None
    if pretrained:
        start = find_start(name, pretrained)
    # Of the file only the `model:` section is read, so one without data will do.
    with _faults_of_arguments():
        section = read_model(name, _overrides(options, num_classes))
        if features_only and start is None:  # whose width may be another than the head's
            return _in_evaluation(FeatureMaps(section.build_backbone(), out_indices))
        model = section.build()
    if start is not None:
        new_head = num_classes is not None or features_only
        model.weights_report = start.load(model, new_head=new_head)
    if num_classes == 0:
        model.reset_classifier(0)
    if not features_only:
        return _in_evaluation(model)
    maps = FeatureMaps(model.backbone, out_indices)
    maps.weights_report = model.weights_report
    return _in_evaluation(maps)


@contextmanager
def _faults_of_arguments() -> Iterator[None]:
    """A block whose faults stand in a file or in arguments, and on no command line."""
    try:
        yield
    except ConfigError as error:
        faults = [replace(f, origin=f.origin if f.origin and f.origin.line else None) for f in error.faults]
        raise ConfigError(faults) from None


def _in_evaluation(model: Any) -> Any:
    model.eval()
    return model


def _overrides(architecture: dict[str, Any], num_classes: int | None) -> list[str]:
    """Settings that aren't None as after `-o`, so that what refers to one of them follows it."""
    for key, ours in _OF_TIMM.items():
        if key in architecture:
            raise TypeError(f"create_model has no {key} here: {ours}")
    settings = {f"model.architecture.{key}": value for key, value in architecture.items()}
    settings["model.head.num_classes"] = num_classes or None
    return [f"{k}={json.dumps(v, default=str)}" for k, v in settings.items() if v is not None]


@dataclass(frozen=True)
class Start:
    """Weights to begin with.

    Attributes:
        path: A file, as of `load_weights`.
        related: Whether they are of another model by its name, of which what fits is taken.
        tokenizer: The folder of the files of their tokenizer, of published models of texts.
    """

    path: Path
    related: bool = False
    tokenizer: Path | None = None

    def load(self, model: "Classifier", *, new_head: bool) -> "ConversionReport":
        """As `load_weights`."""
        return load_weights(model, self.path, new_head=new_head, related=self.related)


def find_start(config: str | Path | None, pretrained: Literal[True] | str | Path) -> Start:
    """The weights that `pretrained=` and `--pretrained` mean for a model; published ones are fetched.

    Args:
        config: The model's name, or its file; None for that which the weights are of.
        pretrained: True for those of the model's own name.

    Raises:
        CheckpointError: They can't be had.
        NotPublishedError: None were published.
    """
    from passl_sot.published.cards import card_of
    from passl_sot.published.store import is_published_name, published_weights
    from passl_sot.weights import CheckpointError

    own = None
    if config is not None:
        path = find_config(config)
        own = path.stem if path.resolve().is_relative_to(config_folder().resolve()) else ""
    name = str(pretrained)
    if pretrained is True:
        if not own:
            raise CheckpointError(
                f"pretrained=True is for models of list_models(); for {config} name the weights, or a file"
            )
        name = own
    elif not is_published_name(name):
        return Start(Path(name))
    card = card_of(name)
    weights = published_weights(name)
    # What a model starts from lacks its head, and may be of another model.
    related = bool(card.starts) or own not in (None, card.name)
    return Start(weights, related, weights.parent if card.tokenizer else None)


def load_weights(
    model: "Classifier", weights: str | Path, *, new_head: bool = False, related: bool = False
) -> "ConversionReport":
    """Loads weights into a model that may have another input size, other channels or other classes.

    Position and bias tables are resized and weights over the image's channels adapted, as by
    `tools/convert_torch.py`; changes and entries left new are logged and in the report.

    Args:
        model: The model; unchanged where the weights don't fit.
        weights: A checkpoint of ours, or `.safetensors` or `.pdparams` laid out as Paddle does it, under our
            names or PASSL's or PaddleClas's.
        new_head: Whether the head's last layers may be missing or for another number of classes, or all of it
            missing; what lacks is then left as it is.
        related: Whether the weights may be of another model, with another head or other token embedding:
            what fits is taken, if that is half of the model's entries, and the rest left as it is.

    Raises:
        CheckpointError: The weights can't be read or don't fit.
    """
    import paddle

    from passl_sot.interop import convert_state_dict
    from passl_sot.utils.logger import get_logger
    from passl_sot.weights.checkpoint import CheckpointError, read_weights

    arrays, report = convert_state_dict(model, read_weights(weights)[0], layout="paddle", new_head=new_head)
    if related:
        report.leave_the_rest_new()
    if not report.ok:
        hint = ""
        if report.naming != "passl_sot":
            hint = "\n  if they are PyTorch's, convert them with tools/convert_torch.py first"
        raise CheckpointError(f"{weights} doesn't fit the model: {report}{hint}")
    # Entries that the file lacks keep their initial values; the report names them.
    for name, tensor in model.state_dict().items():
        if name in arrays:
            tensor.set_value(paddle.to_tensor(arrays[name]).astype(tensor.dtype))
    get_logger().info("%s: %s", weights, report)
    return report
