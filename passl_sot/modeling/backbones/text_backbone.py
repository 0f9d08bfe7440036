"""The contract of backbones over texts.

Legend: B batch, L tokens of the longest text, M real tokens of all texts, C width, h heads.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl_sot.modeling.backbones.base import Backbone, Tokens
from passl_sot.nn.block import Attention
from passl_sot.nn.initializers import embedding
from passl_sot.nn.layers import Dropout, LayerNorm
from passl_sot.nn.position import repeat_positions, resize_parameter
from passl_sot.nn.post_norm import Group, Packing, PostNormBlock

# Tokens of a text by which models are counted and timed: the length of the authors' fine-tuning on GLUE.
_LENGTH = 128
# Takes the weight of a key to exactly 0 behind a softmax, and is still a float16.
_MASKED = -3e4


class TextBackbone(Backbone):
    """Base of backbones over texts: numbers of tokens to normalized tokens, the class token first.

    Inputs are int64 ``[B, L]`` and have their usual names: ``input_ids``; ``attention_mask``, 1 for tokens
    and 0 for the padding behind them; where the model knows two kinds of texts also ``token_type_ids``.

    On a CPU, ``forward`` computes real tokens alone; see `compute_padding`. A constructor calls
    ``add_embeddings`` and ``add_blocks``. These settings mean the same in every family:

    * ``vocab_size``: tokens that the model knows;
    * ``max_positions``: tokens that a text may have;
    * ``embed_dim``: width C of the tokens; ``depth``: number of blocks;
    * ``num_heads``: attention heads, which must divide the width;
    * ``mlp_ratio``: hidden width of the MLPs over that of their blocks;
    * ``drop_rate``: dropout of the embeddings, and at the end of both branches of a block;
      ``attn_drop_rate``: dropout on attention weights.

    Args:
        vocab_size: The setting.
        max_positions: The setting.
        num_types: Kinds of texts; with 0 there is no ``token_type_ids``.
        width: C.
        depth: Number of blocks.
    """

    # Row of the position table for a text's first token; with rows before it one is for padding.
    first_position = 0
    pad_id: int | None = None  # the token whose embedding doesn't learn
    causal = False  # whether a token sees those before it alone

    def __init__(self, vocab_size: int, max_positions: int, num_types: int, width: int, depth: int) -> None:
        super().__init__(width, num_prefix_tokens=1, depths=[depth])
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self.num_types = num_types
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": width, "reduction": 1} for i in range(depth)
        ]

    def add_embeddings(self, type_rows: int, norm_epsilon: float | None, dropout: float) -> None:
        """Make the tables of tokens, positions and, with ``type_rows``, types; the norm; the dropout."""
        width = self.num_features
        self.word_embed = embedding(self.vocab_size, width, self.pad_id)
        padding = self.pad_id if self.first_position else None
        self.pos_embed = embedding(self.first_position + self.max_positions, width, padding)
        if type_rows:
            self.type_embed = embedding(type_rows, width)
        if norm_epsilon is not None:
            self.embed_norm = LayerNorm(width, epsilon=norm_epsilon)
        self.embed_drop = Dropout(dropout)

    def add_blocks(
        self,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
        attn_dropout: float,
        norm_epsilon: float,
        tanh_gelu: bool = False,
    ) -> None:
        """Make the blocks."""
        self.blocks = nn.LayerList(
            PostNormBlock(
                self.num_features, num_heads, mlp_ratio, dropout, attn_dropout, norm_epsilon, tanh_gelu
            )
            for _ in range(self.depths[0])
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return ("input_ids", "attention_mask", "token_type_ids")[: 3 if self.num_types else 2]

    def input_specs(self, batch: int | None = None) -> list[paddle.static.InputSpec]:
        """As `Backbone.input_specs`; of texts of 128 tokens where the batch's size is given, else of any."""
        length = None if batch is None else min(_LENGTH, self.max_positions)
        return [paddle.static.InputSpec([batch, length], "int64", name) for name in self.input_names]

    def example_inputs(self, batch: int, seed: int = 0, longest: int | None = None) -> list[np.ndarray]:
        """As `Backbone.example_inputs`: texts of several lengths.

        Args:
            batch, seed: As there.
            longest: Tokens of the first text, than which none is longer; by default 128.
        """
        generator = np.random.default_rng(seed)
        longest = longest or min(_LENGTH, self.max_positions)
        lengths = generator.integers(1, longest + 1, batch)
        lengths[0] = longest
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        padding = self.pad_id or 0
        # No token of the text is a padding one.
        ids = generator.integers(padding + 1, self.vocab_size, mask.shape) * mask + padding * (1 - mask)
        types = (np.arange(longest) > lengths[:, None] // 2) * mask
        return [ids, mask, types][: len(self.input_names)]

    def resize_positions(self, max_positions: int) -> None:
        """Change the tokens that a text may have, as `repeat_positions`; another table is a new parameter.

        Args:
            max_positions: At least 1.
        """
        if max_positions < 1:
            raise ValueError(f"max_positions must be at least 1, got {max_positions}")
        resize_parameter(
            self.pos_embed,
            "weight",
            lambda table: repeat_positions(table, self.first_position, max_positions),
        )
        self.max_positions = max_positions

    def positions(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """Rows of the position table for the tokens of texts ``[B, L]``."""
        return places_of(input_ids)

    def embed(
        self, input_ids: paddle.Tensor, positions: paddle.Tensor, types: paddle.Tensor | None
    ) -> paddle.Tensor:
        """Tokens ``[..., C]`` before the first block, from their numbers, positions and types ``[...]``."""
        x = self._learned(self.word_embed(input_ids), input_ids)
        place = self.pos_embed(positions)
        if self.first_position:
            place = self._learned(place, positions)
        x = x + place
        if hasattr(self, "type_embed"):
            x = x + self.type_embed(input_ids * 0 if types is None else types)
        if hasattr(self, "embed_norm"):
            x = self.embed_norm(x)
        return self.embed_drop(x)

    def _learned(self, x: paddle.Tensor, rows: paddle.Tensor) -> paddle.Tensor:
        """Rows of a table that has one for padding, which gets no gradient."""
        if self.pad_id is None or not paddle.in_dynamic_mode() or x.stop_gradient:
            return x
        # Not by Paddle's padding_idx, which would give zeros.
        return paddle.where((rows == self.pad_id).unsqueeze(-1), x.detach(), x)

    def forward(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
    ) -> Tokens:
        """The inputs to tokens ``[B, L, C]``, class token first, and which of them are no padding.

        Padding gives zeros, or with ``compute_padding`` what the model computes for it.

        Args:
            input_ids: ``[B, L]``.
            attention_mask: By default all are tokens.
            token_type_ids: By default all are 0.
        """
        if attention_mask is None:
            attention_mask = input_ids * 0 + 1
        self.check_texts(input_ids, attention_mask, token_type_ids)
        if _packs(input_ids) and not self.compute_padding:
            return self._forward_packed(input_ids, attention_mask, token_type_ids)
        x = self._padded(input_ids, attention_mask, token_type_ids)[-1]
        tokens = self.class_first(Tokens(x, attention_mask > 0))
        if self.compute_padding:
            return tokens
        return Tokens(tokens.x_bnc * tokens.mask_bn.unsqueeze(-1).astype(x.dtype), tokens.mask_bn)

    def class_first(self, tokens: Tokens) -> Tokens:
        """Tokens in the order of the text to those with the class token first."""
        return tokens

    def class_first_order(self, mask_bl: np.ndarray) -> np.ndarray | None:
        """The same as places ``[B, L]`` that the tokens are taken from; None where nothing moves."""
        return None

    def localizing_layer(self) -> tuple[int, nn.Layer]:
        """See `Backbone.localizing_layer`; the last of the embeddings'."""
        return 0, self.embed_drop

    def attentions(self) -> list[tuple[int, Attention]]:
        """See `Backbone.attentions`."""
        return [(i, block.attn) for i, block in enumerate(self.blocks)]

    def hidden_states(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
    ) -> list[paddle.Tensor]:
        """Tokens ``[B, L, C]`` after each block, in the order of the text, with those of the padding.

        Args:
            input_ids, attention_mask, token_type_ids: As for ``forward``.
        """
        return self.forward_intermediates(input_ids, attention_mask, token_type_ids)

    def forward_intermediates(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
        indices: int | Sequence[int] | None = None,
    ) -> list[paddle.Tensor]:
        """The same of some blocks.

        Args:
            input_ids, attention_mask, token_type_ids: As for ``forward``.
            indices: As in `ImageBackbone.forward_intermediates`.
        """
        chosen = self.pick_maps(indices)
        if attention_mask is None:
            attention_mask = input_ids * 0 + 1
        self.check_texts(input_ids, attention_mask, token_type_ids)
        found = self._padded(input_ids, attention_mask, token_type_ids, max(chosen, default=-1) + 1)
        return [found[i] for i in chosen]

    def _padded(
        self,
        input_ids: paddle.Tensor,
        attention_mask: paddle.Tensor,
        types: paddle.Tensor | None,
        depth: int | None = None,
    ) -> list[paddle.Tensor]:
        """Tokens ``[B, L, C]`` after each of the first blocks."""
        x = self.embed(input_ids, self.positions(input_ids), types)
        allowed = (attention_mask > 0).unsqueeze(1)
        if self.causal:
            place = places_of(input_ids)
            allowed = allowed & (place.unsqueeze(1) <= place.unsqueeze(2))
        bias = ((1.0 - allowed.astype(x.dtype)) * _MASKED).unsqueeze(1)
        groups = [Group(0, 0, bias)]
        found = []
        for block in list(self.blocks)[:depth]:
            x = self.run_block(block, x, groups)
            found.append(x)
        return found

    def _forward_packed(
        self, input_ids: paddle.Tensor, attention_mask: paddle.Tensor, types: paddle.Tensor | None
    ) -> Tokens:
        mask = attention_mask.numpy() > 0
        packing = Packing(mask)
        positions = packing.pack(self.positions(input_ids))
        packed_types = None if types is None else packing.pack(types)
        x = self.embed(packing.pack(input_ids), positions, packed_types)
        groups = [Group(n, length, self._causal_bias(length, x.dtype)) for n, length in packing.lengths]
        for block in self.blocks:
            x = self.run_block(block, x, groups)
        order = self.class_first_order(mask)
        if order is not None:
            mask = np.take_along_axis(mask, order, axis=1)
        return Tokens(packing.unpack(x, order), paddle.to_tensor(mask))

    def _causal_bias(self, length: int, dtype: Any) -> paddle.Tensor | None:
        """``[h, L, L]``."""
        if not self.causal:
            return None
        table = np.triu(np.full((length, length), _MASKED, np.float32), 1)
        heads = self.blocks[0].attn.num_heads
        return paddle.to_tensor(np.broadcast_to(table, (heads, length, length))).astype(dtype)

    # Not translated: a graph has nothing to tell.
    @paddle.jit.not_to_static
    def check_texts(self, input_ids: Any, attention_mask: paddle.Tensor, types: paddle.Tensor | None) -> None:
        """Raise a readable error for inputs that this model does not take."""
        name = type(self).__name__
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": types}
        if types is not None and not self.num_types:
            raise ValueError(f"{name} has no types of tokens: leave token_type_ids out")
        shape = list(input_ids.shape)
        for key, tensor in given.items():
            if tensor is None:
                continue
            # A traced graph has tensors of another class.
            if paddle.in_dynamic_mode() and not isinstance(tensor, paddle.Tensor):
                given_type = type(tensor).__name__
                raise TypeError(f"{name} takes tensors: {key} is {given_type}, write paddle.to_tensor({key})")
            if tensor.dtype not in (paddle.int64, paddle.int32, paddle.bool):
                kind = str(tensor.dtype).rpartition(".")[2]
                raise TypeError(f"{name} takes whole numbers, int64 [batch, tokens]: {key} is {kind}")
            if len(tensor.shape) != 2 or (_known(tensor.shape) and list(tensor.shape) != shape):
                wanted = shape if len(shape) == 2 else "[batch, tokens]"
                raise ValueError(f"{name} takes {key} of shape {wanted}, got {list(tensor.shape)}")
        if isinstance(shape[1], int) and shape[1] > self.max_positions:
            raise ValueError(
                f"{name} takes texts of up to {self.max_positions} tokens, got {shape[1]}: cut them "
                f"(dataset.max_length), or write model.resize_positions({shape[1]})"
            )
        if _packs(input_ids):
            self._check_values(input_ids.numpy(), attention_mask.numpy(), types)

    def _check_values(self, ids: np.ndarray, mask: np.ndarray, types: paddle.Tensor | None) -> None:
        name = type(self).__name__
        empty = np.flatnonzero(~(mask > 0).any(axis=1))
        if len(empty):
            raise ValueError(f"{name} takes texts of at least one token: attention_mask[{empty[0]}] is all 0")
        tables = [("input_ids", ids, self.vocab_size, "vocab_size")]
        if types is not None:
            tables.append(("token_type_ids", types.numpy(), self.num_types, "num_types"))
        for key, values, count, setting in tables:
            wrong = np.argwhere((values < 0) | (values >= count))
            if len(wrong):
                text, place = wrong[0]
                raise ValueError(
                    f"{name} knows the {key} 0 to {count - 1} ({setting}), got {values[text, place]} in text "
                    f"{text}, place {place}: the tokenizer must be the model's own"
                )


def places_of(x_bl: paddle.Tensor) -> paddle.Tensor:
    """0, 1, 2 ... along the texts of a tensor of whole numbers ``[B, L]``."""
    # Not by arange, as a graph may not know the length, nor ones_like, which warns there.
    return (x_bl * 0 + 1).cumsum(axis=1) - 1


# Not translated, as the answer in a graph is always False.
@paddle.jit.not_to_static
def _packs(input_ids: paddle.Tensor) -> bool:
    """Whether values may be read without a wait for the device, and work on padding spared."""
    return paddle.in_dynamic_mode() and input_ids.place.is_cpu_place()


def _known(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) and size >= 0 for size in shape)
