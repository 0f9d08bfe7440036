"""Semantic FPN, for PaddleSeg.

Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", arXiv 1901.02446, figure 3. The suite's
own `PFPNNet` (2.8.0) pairs the branches with the wrong levels, never uses the coarsest one, and derives the
length of a branch from the width of its map, which must double from stage to stage; STViT's don't.

Importing this module registers the class. Legend: B batch, C channels, H rows, W columns.
"""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models import layers


class _Branch(nn.Layer):
    """A level of the pyramid brought to stride 4: convolutions, each followed by a doubling."""

    def __init__(self, in_channels: int, channels: int, doublings: int) -> None:
        super().__init__()
        # The level of stride 4, which is not doubled, has one convolution too.
        widths = [in_channels, *[channels] * max(doublings, 1)]
        self.convs = nn.LayerList(layers.ConvBNReLU(width, channels, 3, padding=1) for width in widths[:-1])
        self.doublings = doublings

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        for conv in self.convs:
            x_bchw = conv(x_bchw)
            if self.doublings:
                x_bchw = F.interpolate(x_bchw, scale_factor=2, mode="bilinear")
        return x_bchw


@manager.MODELS.add_component
class PasslSotSemanticFPN(nn.Layer):
    """Sums the levels of a feature pyramid at stride 4 and classifies its places.

    Args:
        num_classes: Classes of a pixel.
        backbone: Gives maps of strides 4, 8, 16 and 32, and has their `feat_channels`.
        fpn_channels: Channels of the feature pyramid.
        channels: Channels of the branches.
        dropout_prob: Of whole channels, before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        fpn_channels: int = 256,
        channels: int = 128,
        dropout_prob: float = 0.1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        widths: Sequence[int] = backbone.feat_channels
        self.laterals = nn.LayerList(nn.Conv2D(width, fpn_channels, 1) for width in widths)
        self.outs = nn.LayerList(nn.Conv2D(fpn_channels, fpn_channels, 3, padding=1) for _ in widths)
        self.branches = nn.LayerList(_Branch(fpn_channels, channels, i) for i in range(len(widths)))
        self.dropout = nn.Dropout2D(dropout_prob)
        self.classifier = nn.Conv2D(channels, num_classes, 1)

    def forward(self, x_bchw: paddle.Tensor) -> list[paddle.Tensor]:
        """Images to a list of one tensor of logits, of the same height and width."""
        maps = self.backbone(x_bchw)
        coarser = None
        parts = []
        # By numbers: Paddle's translator to static graphs knows no `zip(strict=True)`.
        for i in range(len(maps) - 1, -1, -1):
            level = self.laterals[i](maps[i])
            if coarser is not None:
                level = level + _resized(coarser, level)
            coarser = level
            parts.append(self.branches[i](self.outs[i](level)))
        # A side that isn't a whole number of coarse places is doubled to a few places more.
        parts = [_resized(part, parts[-1]) for part in parts]
        logits = self.classifier(self.dropout(paddle.add_n(parts)))
        return [_resized(logits, x_bchw)]


def _resized(x: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    return F.interpolate(x, paddle.shape(like)[2:], mode="bilinear")
