"""Token embeddings: small convolutional networks in place of a patch projection (SoT, arXiv 2104.10935, 3.1).

A stem (3×3 convolution, 3×3 max-pooling by 2) and three stages lead to a 1×1 projection. The
total stride is 16 from 224 pixels up and 8 below, where the last down-sampling is dropped, as
the official code does at 112; always 8 for Non-local. With ``large_output`` the networks down-sample
less, each as in the official code: DenseNet stops at stride 4 and Inception at 2, Non-local and
Naive_linear stay as they are, and ResNet cannot (its shortcuts would no longer fit).

Legend: B batch, N = H·W tokens, C embedding width.
"""

from collections.abc import Sequence
from itertools import count
from typing import Literal, get_args

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl_sot.nn.batch_norm import batch_norm
from passl_sot.nn.initializers import conv2d
from passl_sot.nn.precision import at_least_float32, autocast_off, softmax

TokenEmbedName = Literal["DenseNet", "ResNet", "Inception", "Non-local", "Naive_linear"]

_FULL_SIZE = 224  # from this many pixels on, the total stride is 16
_GROWTH = 16  # channels that a dense layer adds


class _DenseLayer(nn.Layer):
    """1×1 convolution, ReLU, 3×3 convolution; the ReLU before them is done by the block."""

    # No BatchNorm: the official code passes none to timm 0.3.4's DenseBlock, whose default "norm layer" is
    # a ReLU.
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv2d(in_channels, 2 * _GROWTH, 1, bias=False)
        self.conv2 = conv2d(2 * _GROWTH, _GROWTH, 3, padding=1, bias=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv2(F.relu(self.conv1(x)))


class _DenseBlock(nn.Sequential):
    """Six dense layers, each fed by the outputs of all before it."""

    def __init__(self, in_channels: int) -> None:
        layers = [_DenseLayer(in_channels + i * _GROWTH) for i in range(6)]
        super().__init__(*((f"denselayer{i + 1}", layer) for i, layer in enumerate(layers)))
        self.out_channels = in_channels + 6 * _GROWTH

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        features = [x]
        active = F.relu(x)  # rectified once and extended, not once per layer
        *first, last = self.children()
        for layer in first:
            features.append(layer(active))
            active = paddle.concat([active, F.relu(features[-1])], axis=1)
        return paddle.concat([*features, last(active)], axis=1)


class _DenseTransition(nn.Layer):
    """BatchNorm (no activation), 1×1 convolution, 2×2 average pooling."""

    norm_before = ("norm", "conv")  # an export merges the first into the second

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = batch_norm(in_channels)
        self.conv = conv2d(in_channels, out_channels, 1, bias=False)
        self.stride = 2
        self.strided = ()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(self.norm(x))
        if self.stride == 1:
            return x
        return F.avg_pool2d(x, 2, 2)


class _Bottleneck(nn.Layer):
    """ResNet bottleneck, down-sampling in its 3×3 convolution and its projection shortcut."""

    def __init__(self, in_channels: int, width: int, out_channels: int, project: bool = True) -> None:
        super().__init__()
        self.conv1 = conv2d(in_channels, width, 1, bias=False)
        self.bn1 = batch_norm(width, 1e-3, 0.01)
        self.conv2 = conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.bn2 = batch_norm(width, 1e-3, 0.01)
        self.conv3 = conv2d(width, out_channels, 1, bias=False)
        self.bn3 = batch_norm(out_channels, 1e-3, 0.01)
        # Without a projection the shortcut is the input itself, and the stride has to be 1.
        self.downsample = None
        self.strided = (self.conv2,)
        if project:
            shortcut = conv2d(in_channels, out_channels, 1, stride=2, bias=False)
            self.downsample = nn.Sequential(shortcut, batch_norm(out_channels))
            self.strided = (self.conv2, shortcut)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(("conv", conv), ("bn", batch_norm(out_channels, 1e-3)), ("relu", nn.ReLU()))


class _InceptionBlock(nn.Layer):
    """Branches 1×1; 1×1, 3×3; 1×1, 5×5; max-pool, 1×1 → 32 + 64 + 16 + 16 channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stride = 2
        self.branch0 = _conv_bn_relu(in_channels, 32, 1, stride=2)
        self.branch1 = nn.Sequential(_conv_bn_relu(in_channels, 32, 1), _conv_bn_relu(32, 64, 3, stride=2))
        self.branch2 = nn.Sequential(_conv_bn_relu(in_channels, 16, 1), _conv_bn_relu(16, 16, 5, stride=2))
        # Index 0 is the max-pooling's place in the official state dict; forward does the pooling.
        self.branch3 = nn.Sequential(nn.Identity(), _conv_bn_relu(in_channels, 16, 1))
        self.strided = (self.branch0.conv, self.branch1[1].conv, self.branch2[1].conv)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        pooled = F.max_pool2d(x, 3, self.stride, 1)
        branches = [self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(pooled)]
        return paddle.concat(branches, axis=1)


class _NonLocalBlock(nn.Layer):
    """Embedded-Gaussian non-local block with a projection shortcut and a closing BatchNorm."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()

        def projection(width: int) -> nn.Sequential:
            return nn.Sequential(conv2d(channels, width, 1), batch_norm(width))

        self.bn_norm = batch_norm(out_channels)
        self.g = projection(channels)
        self.W = conv2d(channels, out_channels, 1)
        # From zero, so that the block begins as its shortcut.
        with paddle.no_grad():
            for parameter in self.W.parameters():
                parameter.set_value(paddle.zeros_like(parameter))
        self.theta = projection(channels)
        self.phi = projection(channels)
        self.shortcut = projection(out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        theta, phi, g = self.theta(x), self.phi(x), self.g(x)
        with autocast_off():
            queries = at_least_float32(theta).flatten(2)
            keys = at_least_float32(phi).flatten(2)
            # Not scaled, as published.
            weights = softmax(paddle.matmul(queries, keys, transpose_x=True))
        mixed = paddle.matmul(g.flatten(2), weights.astype(g.dtype), transpose_y=True)
        mixed = mixed.reshape([0, 0, *g.shape[2:]])
        return self.bn_norm(self.W(mixed) + self.shortcut(x))


class _ConvTokens(nn.Layer):
    """Stem, stages and 1×1 projection; layers in ``halving`` halve the size up to the total stride.

    Those have their own ``stride``, and ``strided`` convolutions that take it.
    """

    def __init__(
        self,
        in_chans: int,
        token_dim: int,
        embed_dim: int,
        stage: Sequence[nn.Layer],
        stage_dim: int,
        halving: Sequence[nn.Layer],
        rounds_up: bool = True,
        largest_stride: int = 16,
        large_stride: int | None = None,
    ) -> None:
        super().__init__()
        stem_conv = conv2d(in_chans, token_dim, 3, padding=1)
        self.stem = nn.Sequential(stem_conv, nn.MaxPool2D(3, 2, 1))
        self.stage = nn.Sequential(*stage)
        self.transition = conv2d(stage_dim, embed_dim, 1)
        self.halving = tuple(halving)
        self.rounds_up = rounds_up
        self.largest_stride = largest_stride
        self.large_stride = large_stride  # the one that large_output asks for; None if that changes nothing
        self.stride = largest_stride

    def set_stride(self, stride: int) -> None:
        self.stride = min(stride, self.largest_stride)
        for i, layer in enumerate(self.halving):
            layer.stride = 2 if self.stride >= 2 ** (i + 2) else 1
            for conv in layer.strided:
                # Paddle keeps a convolution's stride there and offers no other way to change it.
                conv._stride = [layer.stride, layer.stride]

    def grid_size(self, size: int) -> int:
        size = (size + 1) // 2
        halved = 2
        while halved < self.stride:
            # A strided and padded convolution rounds half an odd size up, pooling rounds it down.
            size = (size + self.rounds_up) // 2
            halved *= 2
        return size

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        x_bchw = self.transition(self.stage(self.stem(x_bchw)))
        return x_bchw.flatten(2).transpose([0, 2, 1])


class _LinearTokens(nn.Layer):
    """ViT's patch projection: one convolution whose kernel is its stride."""

    def __init__(self, in_chans: int, embed_dim: int, patch: int) -> None:
        super().__init__()
        self.stride = patch
        self.large_stride = None
        self.proj = conv2d(in_chans, embed_dim, patch, stride=patch)

    def set_stride(self, stride: int) -> None:
        """The kernel is the patch: it stays as it was built, at every size."""

    def grid_size(self, size: int) -> int:
        return size // self.stride

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        return self.proj(x_bchw).flatten(2).transpose([0, 2, 1])


_TITLES = {
    _DenseBlock: "dense block",
    _DenseTransition: "transition",
    _Bottleneck: "bottleneck",
    _InceptionBlock: "Inception block",
    _NonLocalBlock: "non-local block",
}


def _stride_at(img_size: tuple[int, int]) -> int:
    return 16 if min(img_size) >= _FULL_SIZE else 8


def _make(
    name: str, in_chans: int, token_dim: int, embed_dim: int, stride: int, every_size: bool
) -> nn.Layer:
    ends = (in_chans, token_dim, embed_dim)
    layers: list[nn.Layer] = []
    if name == "DenseNet":
        for width in (token_dim, 128, 128):
            layers.append(_DenseBlock(width))
            layers.append(_DenseTransition(layers[-1].out_channels, 128))
        return _ConvTokens(*ends, layers, 128, layers[1::2], rounds_up=False, large_stride=4)
    if name == "ResNet":
        # Built for stride 8, the official last bottleneck has no weights for down-sampling.
        largest = 16 if every_size else stride
        layers = [_Bottleneck(token_dim, 64, 256), _Bottleneck(256, 64, 256)]
        layers.append(_Bottleneck(256, 64, 256, project=largest == 16))
        return _ConvTokens(*ends, layers, 256, layers, largest_stride=largest)
    if name == "Inception":
        layers = [_InceptionBlock(width) for width in (token_dim, 128, 128)]
        return _ConvTokens(*ends, layers, 128, layers, large_stride=2)
    if name == "Non-local":
        for width, out_channels in ((token_dim, 128), (128, 256)):
            layers += [conv2d(width, 64, 3, stride=2, padding=1), batch_norm(64, 1e-3, 0.01), nn.ReLU()]
            layers.append(_NonLocalBlock(64, out_channels))
        # Two stages only, that always halve the size.
        return _ConvTokens(*ends, layers, 256, [], largest_stride=8)
    if name == "Naive_linear":
        return _LinearTokens(in_chans, embed_dim, stride)
    raise ValueError(f"unknown token embedding {name!r}: one of {', '.join(get_args(TokenEmbedName))}")


class TokenEmbed(nn.Layer):
    """SoT's token embedding, a small convolutional network (arXiv 2104.10935, section 3.1).

    The smaller of height and width settles the total stride: 16 from 224 pixels up, 8 below. A ValueError for
    a size that gives no token names the nearest that does.

    Args:
        name: The network.
        img_size: Height and width of the images in pixels.
        in_chans: Their channels.
        embed_dim: Width C of the tokens.
        token_dim: Width of the stem (64 in every published model).
        large_output: Stop earlier: DenseNet at stride 4, Inception at 2; the others stay as they are, and
            ResNet is refused with a ValueError.
        every_size: Whether the ResNet network has a projection in its last shortcut at every size, so that
            weights of one size load at others; officially there is none below 224 pixels.
    """

    def __init__(
        self,
        name: TokenEmbedName = "DenseNet",
        img_size: tuple[int, int] = (224, 224),
        in_chans: int = 3,
        embed_dim: int = 384,
        token_dim: int = 64,
        large_output: bool = False,
        every_size: bool = False,
    ) -> None:
        super().__init__()
        if large_output and name == "ResNet":
            raise ValueError(
                "large_output needs the DenseNet token embedding, not ResNet, whose shortcuts would not fit "
                "(DenseNet stops at a quarter of the image size, Inception at half of it)"
            )
        self.name = name
        self.large_output = large_output
        stride = _stride_at(img_size)
        self.tokens = _make(name, in_chans, token_dim, embed_dim, stride, every_size)
        self.resize(img_size)

    def _wanted_stride(self, img_size: tuple[int, int]) -> int:
        large = self.tokens.large_stride if self.large_output else None
        return large or _stride_at(img_size)

    @property
    def stride(self) -> int:
        """Pixels per token along each side."""
        return self.tokens.stride

    def steps(self) -> list[tuple[str, nn.Layer, int]]:
        """The way from an image to tokens: titles, layers that give a map each, and its pixels per place."""
        if isinstance(self.tokens, _LinearTokens):
            return [("patch projection", self.tokens.proj, self.stride)]
        stride = 2
        steps = [("stem", self.tokens.stem, stride)]
        numbers = dict.fromkeys(_TITLES, 0)
        for layer in self.tokens.stage:
            kind = type(layer)
            stride *= layer._stride[0] if isinstance(layer, nn.Conv2D) else getattr(layer, "stride", 1)
            if kind in _TITLES:
                numbers[kind] += 1
                steps.append((f"{_TITLES[kind]} {numbers[kind]}", layer, stride))
        return [*steps, ("1×1 projection", self.tokens.transition, stride)]

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens for an image, at the present stride.

        Args:
            height: Of the image, in pixels.
            width: Likewise.
        """
        return self.tokens.grid_size(height), self.tokens.grid_size(width)

    def resize(self, img_size: tuple[int, int]) -> None:
        """Plan for another input size: the stride follows, the weights stay.

        Two cannot follow everywhere: the linear embedding keeps the patch it was built with, as the
        patch is its kernel; the ResNet one built below 224 pixels without ``every_size`` keeps stride 8,
        as it has no weights for the last down-sampling. A ValueError for a size that gives no token.

        Args:
            img_size: Height and width in pixels.
        """
        before = self.stride
        self.tokens.set_stride(self._wanted_stride(img_size))
        if min(self.grid_size(*img_size)) < 1:
            grid_size = self.tokens.grid_size
            nearest = [next(n for n in count(max(side, 1)) if grid_size(n)) for side in img_size]
            tried = self.stride
            self.tokens.set_stride(before)
            raise ValueError(
                f"an image of {img_size[0]}x{img_size[1]} gives no token with the {self.name} embedding "
                f"(stride {tried}): the nearest valid size is {nearest[0]}x{nearest[1]}"
            )

    def forward(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images to tokens ``[B, N, C]``, row by row.

        Args:
            x_bchw: Images ``[B, in_chans, H, W]``.
        """
        return self.tokens(x_bchw)
