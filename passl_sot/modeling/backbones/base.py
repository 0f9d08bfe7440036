"""The contract every backbone keeps, and that of backbones over images.

Legend: B batch, P prefix tokens (class, distillation), N = H·W word tokens, C width.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from passl_sot.config import value_of_epoch
from passl_sot.nn.block import Attention
from passl_sot.nn.initializers import trunc_normal_
from passl_sot.nn.layers import DropPath
from passl_sot.nn.precision import check_floats
from passl_sot.nn.recompute import recompute_block
from passl_sot.nn.token_embed import TokenEmbed

Grid = tuple[int, int]


class Tokens(NamedTuple):
    """What a backbone gives whose tokens don't all count, as texts of several lengths have padding.

    Attributes:
        x_bnc: Tokens ``[B, P+N, C]``.
        mask_bn: Which of them count, bool ``[B, P+N]``.
    """

    x_bnc: paddle.Tensor
    mask_bn: paddle.Tensor


Features = paddle.Tensor | Tokens


class TokenStep(NamedTuple):
    """A step by which an image becomes tokens, to be recorded by a hook.

    Attributes:
        title: What is done, in a few words.
        layer: The layer whose output it is: a map ``[B, C, H, W]``, or tokens ``[B, N, C]``.
        stride: Pixels per token along each side.
        grid: Rows and columns of such tokens.
        enters: Whether it is what the layer takes instead.
        window: Where tokens overlap, the pixels of one along each side, and the first of these of the first
            token (negative beyond the border).
    """

    title: str
    layer: nn.Layer
    stride: int
    grid: Grid | None = None
    enters: bool = False
    window: tuple[int, int] | None = None


def as_pair(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from one number or two; a ValueError unless they are positive whole numbers."""
    pair = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(pair) != 2 or any(not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"img_size must be a positive number or [height, width], got {img_size!r}")
    return pair[0], pair[1]


def steps_of(embed: TokenEmbed) -> list[TokenStep]:
    """Those of a token embedding."""
    return [TokenStep(*step) for step in embed.steps()]


def halved(grid: Grid) -> Grid:
    """Half the rows and columns, rounded up."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def prepend(tokens: Sequence[paddle.Tensor], x_bnc: paddle.Tensor) -> paddle.Tensor:
    """Learned tokens, each ``[1, 1, C]``, before those of every sample ``[B, N, C]``."""
    # By the batch's size, which a traced graph computes, not by `expand_as`: of that ONNX keeps a shape that
    # no engine can load.
    batch = x_bnc.shape[0]
    return paddle.concat([*(token.expand([batch, -1, -1]) for token in tokens), x_bnc], axis=1)


def _differs(got: Any, wanted: int) -> bool:
    # A traced graph has -1 or a variable for a size that it leaves open.
    return isinstance(got, int) and got >= 0 and got != wanted


class Backbone(nn.Layer):
    """Base of all backbones: ``forward(*inputs)`` gives normalized tokens ``[B, P+N, C]``, or `Tokens`.

    The inputs may be anything; a backbone checks them itself. Blocks are ``blocks.<i>`` or
    ``<stages>.<s>.blocks.<i>``, ``depths`` in each stage, and ``norm`` (or ``proj``) follows the last.
    ``num_features`` is C; ``num_prefix_tokens`` is P: 0, 1 (class) or 2 (and distillation).
    """

    # For each map of forward_intermediates its "module" (name of the layer), "num_chs", and "reduction"
    # (pixels per token).
    feature_info: list[dict[str, Any]]
    # Whether what a head takes for padding must be computed; else it may be zeros.
    compute_padding = False
    recompute = False  # see set_recompute

    def __init__(self, num_features: int = 0, num_prefix_tokens: int = 0, depths: Sequence[int] = ()) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_prefix_tokens = num_prefix_tokens
        self.depths = list(depths)
        self.num_layers = sum(depths) + 1  # the greatest number that layer_of gives
        self._drop_path_rate: float | Mapping[str, float | str] | None = None

    def input_specs(self, batch: int | None = None) -> list[paddle.static.InputSpec]:
        """Name, shape and type of each input, for graphs and counts; None for a batch of any size."""
        raise NotImplementedError(f"{type(self).__name__} does not say which inputs it takes (input_specs)")

    def example_inputs(self, batch: int, seed: int = 0) -> list[np.ndarray]:
        """Made-up inputs of ``batch`` items, by which models are timed and compared: here noise."""
        generator = np.random.default_rng(seed)
        return [generator.standard_normal(spec.shape, np.float32) for spec in self.input_specs(batch)]

    def learned(self, shape: list[int]) -> paddle.Tensor:
        """A new parameter as class tokens and position tables start: normal, std 0.02."""
        # Zeros are cheaper than Paddle's own start, which is drawn over.
        zero = nn.initializer.Constant(0.0)
        return trunc_normal_(self.create_parameter(shape, default_initializer=zero), std=0.02)

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise decay, by its name in this backbone.

        0 before the first block, i+1 for block i (counted through all stages), ``num_layers`` after the last.
        """
        parts = name.split(".")
        if parts[0] in ("norm", "proj"):
            return self.num_layers
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        if len(parts) > 3 and parts[2] == "blocks":
            return sum(self.depths[: int(parts[1])]) + int(parts[3]) + 1
        # The way down to the next stage has the depth of the block before it: Swin's official fine-tuning
        # counts a merging to the stage before.
        if parts[0] in ("layers", "pools"):
            return sum(self.depths[: int(parts[1]) + 1])
        return 0

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed all the same."""
        return set()

    def set_recompute(self, on: bool = True) -> None:
        """Trade time for memory: recompute activations of the blocks in the backward pass."""
        self.recompute = on

    def schedule_drop_path(self, rate: float | Mapping[str, float | str]) -> None:
        """Set the stochastic depth of all blocks, by a rate in [0, 1) or a schedule; ends a constructor."""
        self._drop_path_rate = rate
        self.set_epoch(0)

    def rates_of_blocks(self, rate: float, depth: int) -> list[float]:
        """The drop-path rates of ``depth`` blocks in order: linearly from 0 up to ``rate`` for the last."""
        return [rate * i / max(depth - 1, 1) for i in range(depth)]

    def localizing_layer(self) -> tuple[int, nn.Layer]:
        """A stage, and the layer in it whose output says best where the evidence of a class lies.

        The output has the form of what the blocks of that stage take; of texts it is that of the embeddings.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say which layer's tokens tell places (localizing_layer)"
        )

    def attentions(self) -> list[tuple[int, Attention]]:
        """The layers of attention among a stage's tokens, in order, each with the number of the stage."""
        return []

    def pick_maps(self, indices: int | Sequence[int] | None) -> list[int]:
        """Positions in ``feature_info``, none negative; see `forward_intermediates`."""
        count = len(self.feature_info)
        if indices is None:
            indices = count
        if isinstance(indices, int):
            if not 1 <= indices <= count:
                raise ValueError(f"there are {count} feature maps, cannot take the last {indices}")
            return list(range(count - indices, count))
        for i in indices:
            if not -count <= i < count:
                raise ValueError(f"no feature map {i}: there are {count}, numbered from 0")
        return [i % count for i in indices]

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch of training, counted from 0; the drop-path rates follow their schedule."""
        if self._drop_path_rate is None:
            return
        rate = value_of_epoch("drop_path_rate", self._drop_path_rate, epoch)
        # In the order in which they were made, which is that of the blocks.
        layers = [layer for layer in self.sublayers() if isinstance(layer, DropPath)]
        for layer, own in zip(layers, self.rates_of_blocks(rate, len(layers)), strict=True):
            layer.set_rate(own)

    def run_block(self, block: nn.Layer, x: paddle.Tensor, *more: Any) -> paddle.Tensor:
        """Call a block, with recomputation when it is on and there are gradients to save for."""
        # A frozen backbone in evaluation mode saves nothing, and a static graph has its own way.
        if self.recompute and (self.training or not x.stop_gradient) and paddle.in_dynamic_mode():
            return recompute_block(block, x, *more)
        return block(x, *more)


class ImageBackbone(Backbone):
    """Base of backbones over images: an embedding, stages of blocks, and a last norm.

    A family gives ``embed``, ``run_stage`` and ``_plan``, which calls ``plan_maps``. Constructors and
    ``resize`` raise a ValueError where numbers contradict each other or the size gives no token. These
    settings mean the same in every family:

    * ``img_size``: input size in pixels, or [height, width]; ``in_chans``: channels of the images;
    * ``depth`` or ``depths``: number of blocks, in all or of each stage;
    * ``num_heads``: attention heads (of each stage); they must divide the width;
    * ``mlp_ratio``: hidden width of the MLPs over that of their blocks;
    * ``qkv_bias``: whether the query-key-value projections have a bias;
    * ``drop_rate``: dropout before the first block, in the MLPs, and after projections;
      ``attn_drop_rate``: dropout on attention weights;
    * ``drop_path_rate``: stochastic depth of the last block; it grows linearly from 0 over all blocks. Or a
      schedule over epochs, as in ``config.epoch_schedule``.
    """

    img_size: tuple[int, int]  # height and width in pixels
    grid_size: Grid  # rows and columns of the word tokens given
    grids: list[Grid]  # of each map of feature_info
    norm: nn.Layer
    # Why a graph of this backbone can't leave the size of images open; "" where it can, by `open_size`.
    size_obstacle = "its code computes for the planned size alone"
    size_open = False

    def __init__(
        self, in_chans: int, num_features: int, num_prefix_tokens: int, depths: Sequence[int]
    ) -> None:
        super().__init__(num_features, num_prefix_tokens, depths)
        self.in_chans = in_chans

    def input_specs(self, batch: int | None = None) -> list[paddle.static.InputSpec]:
        """Images ``[B, in_chans, H, W]``."""
        return [paddle.static.InputSpec([batch, self.in_chans, *self.img_size], "float32", "image")]

    def embed(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to the input of the first stage."""
        raise NotImplementedError

    def run_stage(self, s: int, x: paddle.Tensor) -> paddle.Tensor:
        """Output of stage s, which is map s of ``feature_info``, from that of the one before."""
        raise NotImplementedError

    def resize(self, img_size: int | Sequence[int]) -> None:
        """Change the input size; of the weights only learned tables follow, as new parameters.

        Args:
            img_size: Side in pixels, or [height, width]; a ValueError names the nearest valid ones.
        """
        size = as_pair(img_size)
        self._plan(size)
        self.img_size = size

    def _plan(self, size: tuple[int, int]) -> None:
        """Change all that depends on the size; nothing, if it is impossible."""
        raise NotImplementedError

    def open_size(self) -> None:
        """Compute from now on for the size of each batch of images: for graphs, and for dense tasks.

        Learned tables stay as they are and are interpolated in every pass, so that they can be trained on
        images of many sizes. What a network decides by its size, such as the stride of a token embedding,
        stays as planned.
        """
        self.size_open = True

    def plan_maps(
        self, modules: Sequence[str], widths: Iterable[int], strides: Iterable[int], grids: Sequence[Grid]
    ) -> None:
        """Note the maps that ``forward_intermediates`` can give, in order."""
        self.grids = list(grids)
        self.grid_size = self.grids[-1]
        self.feature_info = [
            {"module": module, "num_chs": width, "reduction": stride}
            for module, width, stride in zip(modules, widths, strides, strict=True)
        ]

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images of the size planned for to normalized tokens ``[B, P+N, C]``.

        Args:
            x_bchw: Images ``[B, in_chans, H, W]``.
        """
        x = self.embed(x_bchw)
        for s in range(len(self.feature_info)):
            x = self.run_stage(s, x)
        return self.norm(x)

    def forward_intermediates(
        self, x_bchw: paddle.Tensor, indices: int | Sequence[int] | None = None
    ) -> list[paddle.Tensor]:
        """Feature maps ``[B, C, H, W]`` from inside the network, without prefix tokens, not normalized.

        Args:
            x_bchw: Images ``[B, in_chans, H, W]``.
            indices: Positions in ``feature_info`` (negative ones count from the end), the number of last
                maps, or None for all; a ValueError if there is no such map.
        """
        chosen = self.pick_maps(indices)
        maps: dict[int, paddle.Tensor] = {}
        x = self.embed(x_bchw)
        # No further than the last map wanted: the later stages would be wasted time.
        for s in range(max(chosen, default=-1) + 1):
            x = self.run_stage(s, x)
            if s in chosen:
                maps[s] = self.as_map(s, x)
        return [maps[s] for s in chosen]

    def token_steps(self) -> list[TokenStep]:
        """How images become tokens before the first block, in order; for pictures."""
        embed = getattr(self, "patch_embed", None)
        if embed is None:
            return []
        if isinstance(embed, TokenEmbed):
            return steps_of(embed)
        return [TokenStep("patch embedding", embed, self.feature_info[0]["reduction"], self.grids[0])]

    def as_map(self, s: int, x: paddle.Tensor) -> paddle.Tensor:
        """Output of stage s as a map ``[B, C, H, W]``."""
        words = x[:, self.num_prefix_tokens :].transpose([0, 2, 1])
        # 0 copies the size: a traced graph may not know it.
        return words.reshape([0, 0, *self.grids[s]])

    def check_images(self, x_bchw: paddle.Tensor) -> None:
        """Raise a readable error for images of another shape than the model is planned for."""
        check_floats(type(self).__name__, x_bchw)
        shape = list(x_bchw.shape)
        wanted = [self.in_chans, *self.img_size]
        name = type(self).__name__
        if len(shape) != 4 or _differs(shape[1], self.in_chans):
            cure = ""
            if len(shape) == 4 and not _differs(shape[3], self.in_chans):
                cure = ": channels come first, write x.transpose([0, 3, 1, 2])"
            elif len(shape) == 3:
                cure = ": a single image is a batch of one, write x.unsqueeze(0)"
            raise ValueError(f"{name} takes images [batch, {', '.join(map(str, wanted))}], got {shape}{cure}")
        if self.size_open:
            return
        if _differs(shape[2], self.img_size[0]) or _differs(shape[3], self.img_size[1]):
            raise ValueError(
                f"{name} is planned for images of {self.img_size[0]}x{self.img_size[1]} pixels, got "
                f"{shape[2]}x{shape[3]}: resize the images, or the model with "
                f".resize([{shape[2]}, {shape[3]}]) (img_size in the configuration)"
            )

    def check_size(self, size: tuple[int, int], least: int, unit: str) -> None:
        """Raise an error that names the nearest valid size unless both sides have ``least`` pixels."""
        if min(size) < least:
            nearest = " x ".join(str(max(side, least)) for side in size)
            raise ValueError(
                f"{type(self).__name__}: an image of {size[0]}x{size[1]} pixels holds no {unit} of {least}: "
                f"the nearest valid size is {nearest}"
            )
