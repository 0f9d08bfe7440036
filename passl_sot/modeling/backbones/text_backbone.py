"""The contract of backbones over texts.

Legend: B batch, L tokens of the longest text, C width.
"""

import numpy as np
import paddle
from paddle import nn

from passl_sot.modeling.backbones.base import Backbone, Tokens

# Tokens of a text by which models are counted and timed: the length of the authors' fine-tuning on GLUE.
_LENGTH = 128


class TextBackbone(Backbone):
    """Base of backbones over texts: numbers of tokens to normalized tokens, the class token first.

    Inputs are int64 ``[B, L]`` and have their usual names: ``input_ids``; ``attention_mask``, 1 for tokens
    and 0 for the padding behind them; where the model knows two kinds of texts also ``token_type_ids``.

    Args:
        vocab_size: Tokens that it knows.
        max_positions: Tokens that a text may have.
        num_types: Kinds of texts; with 0 there is no ``token_type_ids``.
        width: C.
        depth: Number of blocks.
    """

    size_obstacle = "graphs of texts take every length as they are"

    def __init__(self, vocab_size: int, max_positions: int, num_types: int, width: int, depth: int) -> None:
        super().__init__(width, num_prefix_tokens=1, depths=[depth])
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self.num_types = num_types
        self.blocks = nn.LayerList()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return ("input_ids", "attention_mask", "token_type_ids")[: 3 if self.num_types else 2]

    def input_specs(self, batch: int | None = None) -> list[paddle.static.InputSpec]:
        """As `Backbone.input_specs`; of texts of 128 tokens where the batch's size is given, else of any."""
        length = None if batch is None else min(_LENGTH, self.max_positions)
        return [paddle.static.InputSpec([batch, length], "int64", name) for name in self.input_names]

    def example_inputs(self, batch: int, seed: int = 0) -> list[np.ndarray]:
        """As `Backbone.example_inputs`: texts of several lengths, the first of them the longest."""
        generator = np.random.default_rng(seed)
        longest = min(_LENGTH, self.max_positions)
        lengths = generator.integers(2, longest + 1, batch)
        lengths[0] = longest
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        ids = generator.integers(0, self.vocab_size, mask.shape) * mask
        types = (np.arange(longest) > lengths[:, None] // 2) * mask
        return [ids, mask, types][: len(self.input_names)]

    def embed(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor | None) -> paddle.Tensor:
        """Numbers of tokens ``[B, L]`` to tokens ``[B, L, C]`` before the first block."""
        raise NotImplementedError

    def hidden_states(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
    ) -> list[paddle.Tensor]:
        """Tokens ``[B, L, C]`` after each block, in the order of the text."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
    ) -> Tokens:
        """The inputs to tokens ``[B, L, C]``, class token first, and which of them are no padding.

        Args:
            input_ids: ``[B, L]``.
            attention_mask: By default all are tokens.
            token_type_ids: By default all are 0.
        """
        if attention_mask is None:
            attention_mask = paddle.ones_like(input_ids)
        x_blc = self.hidden_states(input_ids, attention_mask, token_type_ids)[-1]
        return Tokens(x_blc, attention_mask > 0)
