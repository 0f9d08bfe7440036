"""What a training step computes. Another objective is another task, not a flag in the loop."""

import paddle


class ClassificationTask:
    """Images to logits to a loss.

    Args:
        loss: Called with (logits, labels); heads with two outputs hand it a tuple of logits.
    """

    def __init__(self, loss):
        self.loss = loss

    def __call__(self, model: paddle.nn.Layer, batch: dict) -> dict[str, paddle.Tensor]:
        """One forward pass.

        Args:
            model: Maps [B, 3, H, W] to logits.
            batch: `image` [B, 3, H, W] float32 and `label` [B] int64.

        Returns:
            Named values; `loss` is the one to differentiate.
        """
        logits = model(batch["image"])
        return {"loss": self.loss(logits, batch["label"])}
