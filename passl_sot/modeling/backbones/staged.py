"""Backbones in stages, each with half the grid of the one before."""

from collections.abc import Iterable
from itertools import accumulate

import paddle
from paddle import nn

from passl_sot.modeling.backbones.base import Grid, ImageBackbone, halved


class Stage(nn.Layer):
    """Blocks of one width, and the way down to the next stage (None after the last)."""

    def __init__(self, blocks: Iterable[nn.Layer], downsample: nn.Layer | None = None) -> None:
        super().__init__()
        self.blocks = nn.LayerList(blocks)
        self.downsample = downsample


class StagedBackbone(ImageBackbone):
    """Base of backbones in stages (``layers``), each with half the grid of the one before."""

    dims: list[int]  # width of each stage
    layers: nn.LayerList

    def grids_of_stages(self, first_grid: Grid) -> list[Grid]:
        """Rows and columns of each stage's map, by those of the first."""
        return list(accumulate(self.dims[1:], lambda grid, _: halved(grid), initial=first_grid))

    def plan_stages(self, stride: int, first_grid: Grid, module: str = "layers.{}.blocks.{}") -> None:
        """Note each stage's map: pixels per token and grid of the first, places of stage and last block."""
        modules = [module.format(s, depth - 1) for s, depth in enumerate(self.depths)]
        strides = [stride * 2**s for s in range(len(self.dims))]
        self.plan_maps(modules, self.dims, strides, self.grids_of_stages(first_grid))

    def localizing_layer(self) -> tuple[int, nn.Layer]:
        """See `Backbone.localizing_layer`; the last block's second norm, as there is no class token."""
        return len(self.layers) - 1, self.layers[-1].blocks[-1].norm2

    def embed(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """See `ImageBackbone.embed`."""
        self.check_images(x_bchw)
        return self.pos_drop(self.patch_embed(x_bchw))

    def run_blocks(self, blocks: nn.LayerList, x: paddle.Tensor) -> paddle.Tensor:
        """Blocks one after the other."""
        for block in blocks:
            x = self.run_block(block, x)
        return x

    def run_stage(self, s: int, x: paddle.Tensor) -> paddle.Tensor:
        """The way down from the stage before, and the blocks of stage s."""
        if s:
            x = self.layers[s - 1].downsample(x)
        return self.run_blocks(self.layers[s].blocks, x)
