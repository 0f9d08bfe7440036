"""Models by name: every name is a YAML file under configs/, and sizes live there alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from passl_sot.config import config_folder, find_config, list_models, model_config

if TYPE_CHECKING:
    from passl_sot.interop import ConversionReport
    from passl_sot.modeling.classifier import Classifier

__all__ = ["config_folder", "create_model", "find_config", "list_models", "load_weights", "model_config"]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | list[int] | None = None,
    weights: str | Path | None = None,
) -> "Classifier":
    """Builds a model by its config's name, in evaluation mode: [B, in_chans, H, W] to [B, num_classes].

    Args:
        name: One of `list_models()`, or the path of a YAML file.
        num_classes: Other than the config's; the head's last layers are then new.
        in_chans: Channels of the images, other than the config's.
        img_size: Side in pixels, or [height, width], other than the config's.
        weights: See `load_weights`, whose CheckpointError it may raise; `model.weights_report` is its report.

    Raises:
        ConfigError: Unknown name, or values that the model refuses.
    """
    from passl_sot.modeling.schema import read_model

    # Only the `model:` section is read, so files without data will do.
    section = read_model(name)
    if num_classes is not None:
        section.head["num_classes"] = num_classes
    for key, value in {"in_chans": in_chans, "img_size": img_size}.items():
        if value is not None:
            section.architecture[key] = value
    model = section.build()
    if weights is not None:
        model.weights_report = load_weights(model, weights, new_head=num_classes is not None)
    model.eval()
    return model


def load_weights(model: "Classifier", weights: str | Path, *, new_head: bool = False) -> "ConversionReport":
    """Loads weights into a model that may have another input size, other channels or other classes.

    Position and bias tables are resized and weights over the image's channels adapted, as by
    `tools/convert_torch.py`; changes and entries left new are logged and in the report.

    Args:
        model: The model; unchanged where the weights don't fit.
        weights: A checkpoint of ours, or `.safetensors` or `.pdparams` laid out as Paddle does it, under our
            names or PASSL's or PaddleClas's.
        new_head: Whether the head's last layers may be missing or for another number of classes; they are
            then left as they are.

    Raises:
        CheckpointError: The weights can't be read or don't fit.
    """
    import paddle

    from passl_sot.interop import convert_state_dict
    from passl_sot.utils.logger import get_logger
    from passl_sot.weights.checkpoint import CheckpointError, read_weights

    arrays, report = convert_state_dict(model, read_weights(weights)[0], layout="paddle", new_head=new_head)
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
