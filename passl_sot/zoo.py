"""Models by name: every name is a YAML file under configs/, and sizes live there alone."""

from pathlib import Path

from passl_sot.utils.shipped import config_folder, find_config, list_models, model_config

__all__ = ["config_folder", "create_model", "find_config", "list_models", "model_config"]


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
