"""`PasslSotPyramid`: any of our backbones as maps of strides 4, 8, 16 and 32, for images of any size.

Backbones in stages (STViT, Swin, PiT) give the maps that they have. Those of one scale (SoT, So-ViT, T2T-ViT,
DeiT) give their last map, from which the finer ones are made by transposed convolutions and the coarser ones
by pooling: the simple feature pyramid of ViTDet (Li, Mao, Girshick, He, "Exploring Plain Vision Transformer
Backbones for Object Detection", arXiv 2203.16527, section 3), here before the head's own layers. PiT's map of
stride 4 is made from that of stride 8 in the same way. A LayerNorm over the channels follows each map, as in
Swin's authors' code for detection; the other authors published none.

Legend: B batch, C channels of a map, H rows, W columns.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import nn

from passl_sot.config import UserError
from passl_sot.modeling.backbones.pit import PiT
from passl_sot.modeling.backbones.plain import PlainBackbone
from passl_sot.modeling.classifier import FeatureMaps
from passl_sot.nn.batch_norm import synchronize_batch_norm
from passl_sot.nn.initializers import uniform_fan_in_
from passl_sot.nn.layers import GELU, LayerNorm
from passl_sot.zoo import create_model

STRIDES = (4, 8, 16, 32)


class _MapNorm(nn.Layer):
    """LayerNorm over the channels of a map ``[B, C, H, W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm(channels, epsilon=1e-5)

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        return self.norm(x_bchw.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])


def _upsample(channels: int, times: int) -> nn.Layer:
    """Twice the sides and half the channels, so many times."""
    layers: list[nn.Layer] = []
    for i in range(times):
        if i:
            layers += [_MapNorm(channels), GELU()]
        layers.append(nn.Conv2DTranspose(channels, channels // 2, 2, stride=2))
        uniform_fan_in_(layers[-1], channels)
        channels //= 2
    return nn.Sequential(*layers)


class PasslSotPyramid(nn.Layer):
    """A backbone of this project, by its name as ``model``, for PaddleSeg and PaddleDetection.

    Images of any size come in; they are padded by zeros, on the right and below, to whole tokens of the
    finest map. PaddleSeg gives a tensor and reads ``feat_channels``; PaddleDetection gives a dict with
    ``image`` and reads ``out_shape``.

    Args:
        model: A name of ``list_models()``, or a YAML file with a ``model:`` section.
        weights: What the backbone starts from: a checkpoint of ours, of any input size, or the name of
            published weights; None for random numbers.
        drop_path_rate: Stochastic depth of the last block; None for the config's.
        norm: What BatchNorm layers of the backbone do: "frozen" keeps their statistics, scales and shifts as
            they are; "batch" goes on as in training a classifier; "sync" takes statistics over all processes.
        recompute: Whether activations of the blocks are computed again in the backward pass, to save memory.
        in_channels: Channels of the images; None for the config's.
        settings: Further settings of the backbone, as under ``model.architecture``; such as
            ``stoken_size: [16, 8, 2, 1]``, STViT's larger windows for large images.

    Attributes:
        feat_channels: Channels of each map, from the finest on.
        strides: Pixels of the image per place of each map, along each side.

    Raises:
        ConfigError: No such model, or a setting that it refuses.
        CheckpointError: The weights can't be had, or don't fit.
        UserError: Maps of these strides can't be made from the backbone's.
    """

    def __init__(
        self,
        model: str,
        weights: str | None = None,
        drop_path_rate: float | None = None,
        norm: Literal["frozen", "batch", "sync"] = "batch",
        recompute: bool = False,
        in_channels: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("frozen", "batch", "sync"):
            raise UserError(f"norm of PasslSotPyramid must be frozen, batch or sync, got {norm!r}")
        maps = create_model(
            model,
            weights or False,
            in_chans=in_channels,
            drop_path_rate=drop_path_rate,
            features_only=True,
            **(settings or {}),
        )
        self.backbone = _without_tail(maps)
        self.backbone.set_recompute(recompute)
        # Detectors give images of other sizes in every batch; tables must stay parameters.
        self.backbone.open_size()
        self._plan(model)
        self._frozen: list[nn.Layer] = []
        if norm == "frozen":
            self._freeze()
        elif norm == "sync":
            synchronize_batch_norm(self.backbone, _sum_over_processes)

    def _plan(self, model: str) -> None:
        """Choose for each stride the backbone's map, and what makes it from that."""
        # Maps by stage; of one scale only the last is used.
        found = list(enumerate(self.backbone.feature_info))
        if isinstance(self.backbone, PlainBackbone):
            found = found[-1:]
        first = found[0][1]["reduction"]
        last = found[-1][1]["reduction"]
        # Doubling and halving lead from powers of two to powers of two alone.
        if math.log2(first) % 1 or first > STRIDES[-1]:
            raise UserError(
                f"PasslSotPyramid: {model} has a token every {first} pixels, from which no maps of every "
                f"{', '.join(map(str, STRIDES))} pixels can be made: take one with a power of two up to 32"
            )
        # Pixels of a place of the finest map: sides are padded to whole ones.
        self.multiple = first
        self.sources: list[int] = []
        self.feat_channels: list[int] = []
        self.changes = nn.LayerList()
        for stride in STRIDES:
            # The map of that stride, or the finest or coarsest that there is.
            i, info = next(item for item in found if item[1]["reduction"] == min(max(stride, first), last))
            channels = info["num_chs"]
            # A layer also where nothing changes, so that names in checkpoints count alike.
            change: nn.Layer = nn.Identity()
            if stride < first:
                times = int(math.log2(first // stride))
                change = _upsample(channels, times)
                channels //= 2**times
            elif stride > last:
                change = nn.MaxPool2D(stride // last, stride // last, ceil_mode=True)
            self.sources.append(i)
            self.changes.append(change)
            self.feat_channels.append(channels)
        self.norms = nn.LayerList(_MapNorm(channels) for channels in self.feat_channels)
        self.strides = list(STRIDES)

    def _freeze(self) -> None:
        for layer in self.backbone.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                self._frozen.append(layer)
                # Scales and shifts too: with statistics fixed they would only drift.
                for parameter in layer.parameters():
                    parameter.stop_gradient = True

    @property
    def out_shape(self) -> list[Any]:
        """What PaddleDetection's necks ask for: a ``ShapeSpec`` of each map."""
        # PaddleSeg's users don't have it.
        from ppdet.modeling.shape_spec import ShapeSpec

        sizes = zip(self.feat_channels, self.strides, strict=True)
        return [ShapeSpec(channels=channels, stride=stride) for channels, stride in sizes]

    def plan(self, height: int, width: int) -> None:
        """Lays out what depends on the images' size, such as Swin's windows, before a graph is traced."""
        with paddle.no_grad():
            self.backbone.embed(self._padded(paddle.zeros([1, self.backbone.in_chans, height, width])))

    def forward(self, inputs: paddle.Tensor | Mapping[str, paddle.Tensor]) -> list[paddle.Tensor]:
        """Images to maps ``[B, C, H/s, W/s]`` for each stride s, rounded up.

        Args:
            inputs: Images ``[B, in_channels, H, W]``, or a mapping that has them as ``image``.
        """
        x_bchw = inputs["image"] if isinstance(inputs, Mapping) else inputs
        # Paddle's train() of a model around this one sets the flags of all its layers.
        for layer in self._frozen:
            layer.training = False
        sources = sorted(set(self.sources))
        maps = self.backbone.forward_intermediates(self._padded(x_bchw), sources)
        found = []
        # By numbers: Paddle's translator to static graphs knows no `zip(strict=True)`.
        for i, source in enumerate(self.sources):
            here = self.changes[i](maps[sources.index(source)])
            found.append(self.norms[i](self._cropped(here, self.strides[i], x_bchw)))
        return found

    def _padded(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        height, width = x_bchw.shape[2:]
        below = -height % self.multiple
        right = -width % self.multiple
        border = 0
        if isinstance(self.backbone, PiT):
            # Its patches overlap: centered over their places, there is one for each.
            border = (self.backbone.patch_size - self.backbone.stride) // 2
        edges = [border, border + right, border, border + below]
        if _is_known(height, width) and not any(edges):
            return x_bchw
        return F.pad(x_bchw, edges)

    def _cropped(self, map_bchw: paddle.Tensor, stride: int, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """A map without the places that lie in the padding alone."""
        # Heads stretch maps to the size of the image.
        if stride >= self.multiple:
            return map_bchw
        rows, columns = ((side + stride - 1) // stride for side in x_bchw.shape[2:])
        return map_bchw[:, :, :rows, :columns]


def size_obstacle(model: nn.Layer) -> str:
    """Why a graph of a model on a pyramid can't leave the size of images open; "" where it can."""
    return getattr(getattr(model.backbone, "backbone", None), "size_obstacle", "")


def plan_pyramids(model: nn.Layer, height: int, width: int) -> None:
    """See `PasslSotPyramid.plan`; of all in a model."""
    for layer in model.sublayers():
        if isinstance(layer, PasslSotPyramid):
            layer.plan(height, width)


def _is_known(*sizes: Any) -> bool:
    return all(isinstance(size, int) and size >= 0 for size in sizes)


def _sum_over_processes(tensor: paddle.Tensor) -> paddle.Tensor:
    if dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def _without_tail(maps: FeatureMaps) -> nn.Layer:
    """The backbone, without the layers behind its last map: no gradient would ever reach them."""
    # An identity, as the backbone's own code may name the layer.
    for name in ("norm", "proj"):
        if hasattr(maps.backbone, name):
            setattr(maps.backbone, name, nn.Identity())
    return maps.backbone
