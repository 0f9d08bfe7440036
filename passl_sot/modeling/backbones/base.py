"""The contract every backbone keeps, and what all of them share.

Legend: B batch, P prefix tokens (class, distillation), N = H·W word tokens, C width.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from passl_sot.config.epoch_schedule import value_of_epoch
from passl_sot.nn.drop_path import DropPath, drop_path_rates
from passl_sot.nn.initializers import trunc_normal_
from passl_sot.nn.patch_embed import adapt_channels

__all__ = ["Backbone", "PlainBackbone", "as_pair", "prepend"]


def as_pair(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from one number or two.

    Raises:
        ValueError: Not one or two positive whole numbers.
    """
    pair = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(pair) != 2 or any(not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"img_size must be a positive number or [height, width], got {img_size!r}")
    return pair[0], pair[1]


def _differs(got: Any, wanted: int) -> bool:
    """Whether a size is known and is another one; a traced graph has -1 or a variable for unknown."""
    return isinstance(got, int) and got >= 0 and got != wanted


def prepend(tokens: Sequence[paddle.Tensor], x_bnc: paddle.Tensor) -> paddle.Tensor:
    """Learned tokens, each ``[1, 1, C]``, before those of every sample ``[B, N, C]``."""
    # Expanded to a tensor, not to a number: a traced graph may not know the batch size.
    return paddle.concat([*(token.expand_as(x_bnc[:, :1]) for token in tokens), x_bnc], axis=1)


def _statistics_once(block: Callable[[paddle.Tensor], paddle.Tensor]) -> Callable[..., paddle.Tensor]:
    """The block, whose second call leaves BatchNorm's running statistics alone.

    Recomputation calls a block again in the backward pass: the statistics would move twice a step.
    """
    layers = block.sublayers() if isinstance(block, nn.Layer) else []
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2D)]
    calls = 0

    def run(x: paddle.Tensor) -> paddle.Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            return block(x)
        momenta = [norm._momentum for norm in norms]
        for norm in norms:
            norm._momentum = 1.0  # Paddle's momentum is the old statistics' share
        try:
            return block(x)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm._momentum = momentum

    return run if norms else block


class Backbone(nn.Layer):
    """Base of all backbones: ``forward(images)`` gives normalised tokens ``[B, P+N, C]``.

    Attributes:
        img_size: Input height and width in pixels.
        num_features: Width C of the tokens given.
        num_prefix_tokens: Number P of tokens before the word tokens: 0, 1 (class) or 2.
        feature_info: One dict per map that ``forward_intermediates`` can give, in order:
            ``module`` (name of the layer), ``num_chs`` and ``reduction`` (pixels per token).
        num_layers: The greatest number ``layer_of`` gives.
        torch_key_rules: How names of the official PyTorch state dict become names of a
            ``Classifier`` (``backbone.*``, ``head.*``): pairs of a regular expression and its
            replacement, all applied in order.
        foreign_key_rules: The same for other namings ("timm", "PaddleClas", "PASSL"), by their
            names; each starts from the foreign file's own names. The naming that accounts for
            all keys is taken.
        paddle_key_rules: The way back, from names of a ``Classifier`` to official ones. A
            conversion checks that ``torch_key_rules`` lead every name back to where it came from.
        torch_tables: Regular expressions of tables that the model computes (buffers that are not
            saved, by their names in the backbone) and that official state dicts hold all the same.
            A file's table for which a model of this size has no use is left aside.
        torch_pointwise: Regular expressions of official names of 1×1 convolutions that are a
            Linear here.
        in_chans: Channels of the images.
        input_weights: Names in the backbone of convolutions over the image, of which at most one is
            there; their weights follow ``in_chans`` when weights of other channels are loaded.
    """

    img_size: tuple[int, int]
    num_features: int
    num_prefix_tokens: int
    feature_info: list[dict[str, Any]]
    num_layers: int
    torch_key_rules: tuple[tuple[str, str], ...] = ((r"^(?!head\.)", "backbone."),)
    foreign_key_rules: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType({})
    paddle_key_rules: tuple[tuple[str, str], ...] = (
        (r"^backbone\.", ""),
        (r"^head\.(fc|head)\.", "head."),
        (r"^head\.head_dist\.", "head_dist."),
    )
    torch_tables: tuple[str, ...] = (r"(.*\.)?pos_embed",)
    torch_pointwise: tuple[str, ...] = ()
    in_chans: int
    input_weights: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._recompute = False
        self._drop_path_rate: float | Mapping[str, float | str] | None = None

    def learned(self, shape: list[int]) -> paddle.Tensor:
        """A new parameter as class tokens and position tables start: normal, deviation 0.02."""
        zero = nn.initializer.Constant(0.0)
        return trunc_normal_(self.create_parameter(shape, default_initializer=zero), std=0.02)

    def forward_intermediates(
        self, x_bchw: paddle.Tensor, indices: int | Sequence[int] | None = None
    ) -> list[paddle.Tensor]:
        """Feature maps ``[B, C, H, W]`` from inside the network.

        Args:
            x_bchw: Images.
            indices: Positions in ``feature_info`` (negative ones count from the end), the number
                of last maps, or None for all.
        """
        raise NotImplementedError

    def resize(self, img_size: int | Sequence[int]) -> None:
        """Change the input size; the weights stay.

        Raises:
            ValueError: The size is impossible; the message names the nearest valid one.
        """
        raise NotImplementedError

    def adapt_torch_entry(self, name: str, array: np.ndarray) -> np.ndarray:
        """An entry of a foreign state dict as this model takes it, such as a resized position table.

        Called for every entry of the backbone before its shape is checked.

        Args:
            name: Its name in this backbone (after the key rules, without ``backbone.``).
            array: Its value, laid out as in the file.

        Returns:
            The value to take, in the same layout; the array itself where nothing is to be done.

        Raises:
            ValueError: It can't be adapted; the message becomes part of the report.
        """
        return array

    def adapt_input_channels(self, name: str, array: np.ndarray) -> np.ndarray:
        """An entry over the channels of the image, for images of ``in_chans`` channels.

        Called for every entry of the backbone before ``adapt_torch_entry``.

        Args:
            name: Its name in this backbone.
            array: Its value, laid out as in PyTorch.

        Returns:
            The value to take, in the same layout; the array itself where nothing is to be done.

        Raises:
            ValueError: It can't be adapted; the message becomes part of the report.
        """
        if name not in self.input_weights or array.ndim != 4:
            return array
        return adapt_channels(array, self.in_chans)

    def restore_torch_entry(self, name: str, array: np.ndarray) -> np.ndarray:
        """The reverse of ``adapt_torch_entry`` for an entry laid out as in PyTorch; see there."""
        return array

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise decay, by its name in this backbone.

        0 for what comes before the first block, i+1 for block i, ``num_layers`` for what comes
        after the last.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed all the same."""
        return set()

    def set_recompute(self, on: bool = True) -> None:
        """Trade time for memory: recompute activations of the blocks in the backward pass."""
        self._recompute = on

    def schedule_drop_path(self, rate: float | Mapping[str, float | str]) -> None:
        """Set the stochastic depth of all blocks; for the end of a constructor.

        Args:
            rate: What ``rates_of_blocks`` takes, or a schedule of such rates, see ``config.epoch_schedule``.

        Raises:
            ValueError: A rate lies outside [0, 1), or the schedule is faulty.
        """
        self._drop_path_rate = rate
        self.set_epoch(0)

    def rates_of_blocks(self, rate: float, depth: int) -> list[float]:
        """The drop-path rates of ``depth`` blocks in order: from 0 up to ``rate`` for the last."""
        return drop_path_rates(rate, depth)

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch of training, counted from 0: drop-path follows what was scheduled."""
        if self._drop_path_rate is None:
            return
        rate = value_of_epoch("drop_path_rate", self._drop_path_rate, epoch)
        layers = [layer for layer in self.sublayers() if isinstance(layer, DropPath)]
        for layer, own in zip(layers, self.rates_of_blocks(rate, len(layers)), strict=True):
            layer.set_rate(own)

    def run_block(self, block: Callable[[paddle.Tensor], paddle.Tensor], x: paddle.Tensor) -> paddle.Tensor:
        """Call a block, with recomputation when it is on and there are gradients to save for."""
        if self._recompute and (self.training or not x.stop_gradient) and paddle.in_dynamic_mode():
            # The re-entrant form breaks inside DataParallel.
            return recompute(_statistics_once(block), x, use_reentrant=False)
        return block(x)

    def check_images(self, x_bchw: paddle.Tensor, in_chans: int) -> None:
        """Raise a readable error for images of another shape than the model is planned for.

        Sizes that a traced graph leaves open (negative) are not checked.
        """
        shape = list(x_bchw.shape)
        wanted = [in_chans, *self.img_size]
        name = type(self).__name__
        if len(shape) != 4 or _differs(shape[1], in_chans):
            raise ValueError(f"{name} takes images [batch, {', '.join(map(str, wanted))}], got {shape}")
        if _differs(shape[2], self.img_size[0]) or _differs(shape[3], self.img_size[1]):
            raise ValueError(
                f"{name} is planned for images of {self.img_size[0]}x{self.img_size[1]} pixels, got "
                f"{shape[2]}x{shape[3]}: resize the images, or the model with "
                f".resize([{shape[2]}, {shape[3]}]) (img_size in the configuration)"
            )

    def pick(self, indices: int | Sequence[int] | None) -> list[int]:
        """Positions in ``feature_info`` that ``indices`` of ``forward_intermediates`` mean.

        Raises:
            ValueError: One lies outside.
        """
        count = len(self.feature_info)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            if not 1 <= indices <= count:
                raise ValueError(f"there are {count} feature maps, cannot take the last {indices}")
            return list(range(count - indices, count))
        wrong = [i for i in indices if not -count <= i < count]
        if wrong:
            raise ValueError(f"no feature map {wrong[0]}: there are {count}, numbered from 0")
        return [i % count for i in indices]


class PlainBackbone(Backbone):
    """Base of backbones of one width and one grid: ``embed``, then ``blocks``, then ``norm``.

    Attributes:
        blocks: Blocks from ``[B, P+N, C]`` to the same shape.
        norm: The norm after the last.
        grid_size: Rows and columns of the word tokens.
    """

    blocks: nn.LayerList
    norm: nn.Layer
    grid_size: tuple[int, int]

    def embed(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to the tokens before the first block ``[B, P+N, C]``."""
        raise NotImplementedError

    def set_stride(self, stride: int) -> None:
        """Note in ``feature_info`` how many pixels a token has along each side."""
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": self.num_features, "reduction": stride}
            for i in range(len(self.blocks))
        ]

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to normalised tokens ``[B, P+N, C]``.

        Raises:
            ValueError: The images have another size than the model is planned for.
        """
        x = self.embed(x_bchw)
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.norm(x)

    def forward_intermediates(
        self, x_bchw: paddle.Tensor, indices: int | Sequence[int] | None = None
    ) -> list[paddle.Tensor]:
        """Outputs of blocks as maps ``[B, C, H, W]``, without prefix tokens, not normalised."""
        chosen = self.pick(indices)
        maps: dict[int, paddle.Tensor] = {}
        x = self.embed(x_bchw)
        for i, block in enumerate(self.blocks[: max(chosen, default=-1) + 1]):
            x = self.run_block(block, x)
            if i in chosen:
                words = x[:, self.num_prefix_tokens :].transpose([0, 2, 1])
                maps[i] = words.reshape([0, 0, *self.grid_size])
        return [maps[i] for i in chosen]

    def layer_of(self, name: str) -> int:
        """See :meth:`Backbone.layer_of`: the embedding is one layer, the final norm comes last."""
        parts = name.split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        return self.num_layers if parts[0] == "norm" else 0
