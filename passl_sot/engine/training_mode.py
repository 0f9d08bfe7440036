"""How a network is set for steps of training, and what a skipped step must undo."""

from collections.abc import Container

import paddle
from paddle import nn

from passl_sot.engine.train_state import TrainingMode

_BATCH_NORMS = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)


def set_training_mode(net: nn.Layer, mode: TrainingMode) -> None:
    """Prepares a network, wrapped or not, for steps of training; see `Experiment.training_mode`."""
    if mode == "eval":
        net.eval()
        return
    # Every epoch anew: evaluation has set all layers' modes in between.
    net.train()
    if mode == "frozen_batch_norm":
        for layer in net.sublayers():
            if isinstance(layer, _BATCH_NORMS):
                layer.eval()


def running_statistics(model: nn.Layer, frozen: Container[str]) -> list[paddle.Tensor]:
    """The buffers that training changes."""
    # A forward pass on bad numbers spoils BatchNorm's running statistics, which no skipped update undoes.
    entries = [tensor for name, tensor in model.state_dict().items() if name not in frozen]
    return [t for t in entries if t.stop_gradient and paddle.is_floating_point(t)]
