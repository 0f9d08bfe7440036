"""In which mode a network stands while it trains."""

from typing import Literal

from paddle import nn

TrainingMode = Literal["train", "eval", "frozen_batch_norm"]
_BATCH_NORMS = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)


def set_training_mode(net: nn.Layer, mode: TrainingMode) -> None:
    """Prepares a network, wrapped or not, for steps of training.

    Args:
        net: The network; its weights train in every mode.
        mode: "train"; "eval", for fine-tuning with BatchNorm's running statistics used and kept, without
            dropout and drop-path; "frozen_batch_norm", with BatchNorm alone in that mode.
    """
    if mode == "eval":
        net.eval()
        return
    net.train()
    if mode == "frozen_batch_norm":
        for layer in net.sublayers():
            if isinstance(layer, _BATCH_NORMS):
                layer.eval()
