"""The contract every head keeps.

Legend: B batch, P prefix tokens, N word tokens, C width, K classes.
"""

import paddle
from paddle import nn

__all__ = ["Head"]


class Head(nn.Layer):
    """Base of all heads: ``forward(tokens)`` gives logits.

    Attributes:
        num_classes: Number K of classes.
        in_channels: Width C of the tokens taken.
        num_prefix_tokens: Number P of tokens before the word tokens.
    """

    def __init__(self, num_classes: int, in_channels: int, num_prefix_tokens: int) -> None:
        super().__init__()
        if num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens must not be negative, got {num_prefix_tokens}")
        self.in_channels = in_channels
        self.num_prefix_tokens = num_prefix_tokens
        self._set_num_classes(num_classes)

    def _set_num_classes(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layers by new ones for ``num_classes`` classes; the rest stays.

        Raises:
            ValueError: There is not at least one class.
        """
        raise NotImplementedError

    def check_tokens(self, x: paddle.Tensor, pooled_allowed: bool) -> None:
        """Raise a readable error for an input that is no ``[B, P+N, C]`` (or ``[B, C]``)."""
        ranks = (2, 3) if pooled_allowed else (3,)
        if x.ndim not in ranks or x.shape[-1] not in (-1, self.in_channels):
            forms = f"[batch, tokens, {self.in_channels}]"
            if pooled_allowed:
                forms += f" or [batch, {self.in_channels}]"
            raise ValueError(f"{type(self).__name__} takes {forms}, got {list(x.shape)}")
