"""Key rules: how the weights of each family are named and laid out in other projects' files."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from passl_sot.config import Registry
from passl_sot.nn.position import resize_bias_table, resize_position_map, resize_position_table

Rules = tuple[tuple[str, str], ...]

KEY_RULES = Registry("key rule", "passl_sot.weights")

# Official models have the backbone's parameters at the top; heads are renamed by a rule before this one.
TO_BACKBONE = (r"^(?!head\.)", "backbone.")
# The convolutions over the image of a `patch_embed`, whose tokens may come from a stem.
IMAGE_WEIGHTS = tuple(f"patch_embed.{name}.weight" for name in ("proj", "tokens.stem.0", "tokens.proj"))


class KeyRules:
    r"""Names and layouts of a family's weights; a family's own rules bear the name of its backbone's class.

    Rules are pairs of a regular expression and its replacement, all applied in order. Names of this
    project are those of a ``Classifier``: ``backbone.*``, ``head.*``.

    Args:
        backbone: The backbone that takes or gives the weights.
    """

    # From names of the authors' PyTorch state dict to names of this project.
    official: Rules = (TO_BACKBONE,)
    # The same for other namings ("timm", "PaddleClas", "PASSL"), by their names; each starts from the foreign
    # file's own names. The naming that accounts for all keys is taken.
    foreign: Mapping[str, Rules] = MappingProxyType({})
    # The way back. A conversion checks that `official` leads every name back to where it came from.
    to_official: Rules = (
        (r"^backbone\.", ""),
        (r"^head\.(fc|head)\.", "head."),
        (r"^head\.head_dist\.", "head_dist."),
    )
    # Tables that the model computes (buffers that are not saved, by regular expressions of their names in the
    # backbone) and that official state dicts hold all the same. A file's table for which a model of this size
    # has no use is left aside.
    tables: tuple[str, ...] = (r"(.*\.)?pos_embed",)
    # The setting by which a model takes such a table from a file that has learned it.
    to_learn_tables: str = ""
    # Regular expressions of official names of 1×1 convolutions that are a Linear here.
    pointwise: tuple[str, ...] = ()
    # Names of layers that are one here to the names of those, beside it, that they are in the files.
    joined: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    # Regular expressions of weights of Linears, by their names in the backbone, that files lay out as Paddle
    # does.
    paddle_layout: tuple[str, ...] = ()
    # Whether files may be of a pre-training, which knows no classes: the head that they lack is left new.
    trained_without_head: bool = False
    # Regular expressions of what files may hold though not all models have a place for it, by its name in the
    # backbone or `head.*`; and why. Of a head only where the file has no last layer for classes.
    left_aside: tuple[tuple[str, str], ...] = ()
    # Regular expressions of what is zeros where a file lacks it, by such names.
    zeros: tuple[str, ...] = ()
    # Names in the backbone of convolutions over the image, of which at most one is there; their weights
    # follow `in_chans` when weights of other channels are loaded.
    input_weights: tuple[str, ...] = ()

    def __init__(self, *, backbone: Any) -> None:
        self.backbone = backbone

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """An entry of a foreign state dict as this model takes it, such as a resized position table.

        Called for every entry of the backbone, before its shape is checked.

        Args:
            name: Its name in the backbone.
            array: Laid out as in the file.

        Raises:
            ValueError: It can't be adapted; the message becomes part of the report.
        """
        return array

    def adapt_input(self, name: str, array: np.ndarray) -> np.ndarray:
        """An entry over the channels of the image, for images of the backbone's ``in_chans`` channels.

        Called before ``adapt``; otherwise like it.

        Args:
            name: Its name in the backbone.
            array: Laid out as in PyTorch.
        """
        if name not in self.input_weights or array.ndim != 4:
            return array
        return adapt_channels(array, self.backbone.in_chans)

    def extend(self, name: str, array: np.ndarray) -> np.ndarray:
        """An entry with new rows behind its own, for what the file's model didn't know.

        Called after ``adapt``; otherwise like it.

        Args:
            name: Its name in the backbone.
            array: As ``adapt`` gave it.
        """
        return array

    def restore(self, name: str, array: np.ndarray) -> np.ndarray:
        """The reverse of ``adapt``.

        Args:
            name: The entry's name in the backbone.
            array: Laid out as in PyTorch.
        """
        return array


def adapt_channels(weight: np.ndarray, in_chans: int) -> np.ndarray:
    """Weights ``[out, 1 or 3, ...]`` over the channels of an image for one of ``in_chans``; their type stays.

    Raises:
        ValueError: The weights are over another number of channels, which have no order to repeat.
    """
    # As in timm: for one channel the weights of all are added, so that a gray image means the same as in
    # three equal channels; for others the channels are repeated in turn and scaled by old over new, which
    # keeps that for multiples of three and is near to it elsewhere.
    old = weight.shape[1]
    if old == in_chans:
        return weight
    if in_chans == 1:
        # In float64: the sum of three rounds once.
        return weight.sum(axis=1, keepdims=True, dtype=np.float64).astype(weight.dtype)
    if old not in (1, 3):
        raise ValueError(
            f"weights over {old} image channels can't be brought to {in_chans}, only over 1 or 3"
        )
    repeated = weight[:, np.arange(in_chans) % old].astype(np.float64)
    return (repeated * (old / in_chans)).astype(weight.dtype)


def _adapt_position_table(backbone: Any, array: np.ndarray) -> np.ndarray:
    """A learned position table ``[1, P+N, C]`` at a backbone's grid; a ValueError if it is not square."""
    prefix = backbone.num_prefix_tokens
    rows, columns = backbone.grid_size
    if array.ndim != 3 or array.shape[1] == prefix + rows * columns:
        return array
    # The file does not tell its grid; all published models are for square images.
    side = math.isqrt(max(array.shape[1] - prefix, 0))
    if side < 1 or side * side != array.shape[1] - prefix:
        raise ValueError(
            f"a position table of {array.shape[1]} rows is no square grid with {prefix} prefix token(s)"
        )
    return resize_position_table(array, prefix, (side, side), (rows, columns))


def key_rules(backbone: Any) -> KeyRules:
    """The rules for a backbone: those named as the nearest class in its line of bases that has some."""
    # A user's class that extends a family keeps the family's names.
    for cls in type(backbone).__mro__:
        rules = KEY_RULES.find(cls.__name__)
        if rules is not None:
            return rules(backbone=backbone)
    return KeyRules(backbone=backbone)


@KEY_RULES.register()
class DeiT(KeyRules):
    """facebookresearch/deit on timm: heads by the number of class tokens, position tables of other sizes."""

    input_weights = IMAGE_WEIGHTS

    def __init__(self, *, backbone: Any) -> None:
        super().__init__(backbone=backbone)
        head = r"head.head\1.\2" if backbone.distilled else r"head.fc.\2"
        self.official = ((r"^head(_dist)?\.(weight|bias)$", head), TO_BACKBONE)
        # PASSL's first version counts the heads to the backbone; the second one's names, and PaddleClas's,
        # are the official ones.
        self.foreign = {"PASSL": ((r"^backbone\.", ""), *self.official)}

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A position table of another (square) grid, interpolated as the official fine-tuning does it."""
        return _adapt_position_table(self.backbone, array) if name == "pos_embed" else array


@KEY_RULES.register()
class PiT(KeyRules):
    """naver-ai/pit and timm: two places of the poolings, and position maps of other sizes."""

    input_weights = ("patch_embed.conv.weight",)

    def __init__(self, *, backbone: Any) -> None:
        super().__init__(backbone=backbone)
        # The distilled model's second head must not match the first one's name.
        head = (r"^head\.(weight|bias)$", r"head.fc.\1")
        if backbone.num_prefix_tokens == 2:
            head = (r"^(head|head_dist)\.(weight|bias)$", r"head.\1.\2")
        self.official = (head, TO_BACKBONE)
        # timm keeps a pooling inside the stage that it leads to; older releases in the stage before.
        self.foreign = {}
        for name, shift in (("timm", 1), ("timm (older)", 0)):
            poolings = range(len(backbone.pools))
            moves = [(rf"^transformers\.{s + shift}\.pool\.", f"pools.{s}.") for s in poolings]
            self.foreign[name] = (*moves, *self.official)

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A position map of another grid, interpolated as the backbone's ``resize`` does it."""
        if name != "pos_embed" or array.ndim != 4:
            return array
        rows, columns = self.backbone.pos_embed.shape[2:]
        return resize_position_map(array, (rows, columns))


@KEY_RULES.register()
class SoT(KeyRules):
    """jiangtaoxie/SoT, So-ViT as well: the head is called ``classifier`` there."""

    official = ((r"^classifier\.", "head."), TO_BACKBONE)
    to_official = ((r"^head\.", "classifier."), (r"^backbone\.", ""))
    pointwise = (r"classifier\.representation\.conv_dr_block\.\d\.0\.weight",)  # So-ViT's head
    input_weights = ("visual_tokens.tokens.stem.0.weight", "visual_tokens.tokens.proj.weight")


@KEY_RULES.register()
class STViT(KeyRules):
    """hhb072/STViT: frozen kernels that are index tables here, and 1×1 convolutions that are Linears."""

    official = ((r"^head\.", "head.fc."), TO_BACKBONE)
    tables = (r".*\.(un)?fold\.weights",)
    pointwise = (
        r".*\.stoken_refine\.(qkv|proj)\.weight",
        r".*\.mlp\d?\.fc\d\.weight",
        r"proj\.weight",
    )
    input_weights = ("patch_embed.proj.0.weight",)


# Today's timm counts a merging with the stage behind it.
_MERGINGS = tuple((rf"^layers\.{s + 1}\.downsample\.", f"layers.{s}.downsample.") for s in range(9))


@KEY_RULES.register()
class Swin(KeyRules):
    """microsoft/Swin-Transformer, timm, PASSL, PaddleClas: computed tables, and biases of other windows."""

    official = (
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
        (r"\.attn_mask$", ".attn.attn_mask"),
        TO_BACKBONE,
    )
    # PASSL's names are for its first version: the second one's, and PaddleClas's, are the official ones.
    foreign = MappingProxyType(
        {
            "PASSL": ((r"^head\.fc_cls\.", "head.fc."), (r"\.attn_mask$", ".attn.attn_mask")),
            "timm": (*_MERGINGS, TO_BACKBONE),
        }
    )
    to_official = (
        (r"^backbone\.", ""),
        (r"^head\.fc\.", "head."),
        (r"\.attn\.attn_mask$", ".attn_mask"),
    )
    # PaddleClas adds the bias of every pair, looked up in the table of biases, when it evaluates.
    tables = (r".*\.relative_position_(index|bias)", r".*\.attn_mask")
    input_weights = IMAGE_WEIGHTS

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A bias table of another window, interpolated as the authors' loading does it."""
        if not name.endswith(".relative_position_bias_table") or array.ndim != 2:
            return array
        try:
            _, stage, _, block, *_ = name.split(".")
            window = self.backbone.layers[int(stage)].blocks[int(block)].attn.window
        except (ValueError, IndexError):
            return array  # of a block that this model doesn't have
        side = math.isqrt(len(array))
        if side * side != len(array) or side % 2 == 0:
            raise ValueError(f"a bias table of {len(array)} rows is for no square window")
        return resize_bias_table(array, (side + 1) // 2, window)


_WINDOW = 49  # pixels of the first cut's windows, 7×7


@KEY_RULES.register()
class T2TViT(KeyRules):
    """yitu-opensource/T2T-ViT, PASSL: weights over the cut image, which are no convolution's."""

    official = ((r"^head\.(weight|bias)$", r"head.fc.\1"), TO_BACKBONE)
    foreign = MappingProxyType({"PASSL": ((r"^head\.fc_cls\.", "head.fc."),)})
    to_learn_tables = "model.architecture.pos_embed=learned"

    def adapt(self, name: str, array: np.ndarray) -> np.ndarray:
        """A learned position table of another (square) grid, interpolated as ``resize`` does it."""
        learns = name == "pos_embed" and self.backbone.learns_positions
        return _adapt_position_table(self.backbone, array) if learns else array

    def adapt_input(self, name: str, array: np.ndarray) -> np.ndarray:
        """The entries that see the cut image, whose columns are channel by channel 7×7 pixels.

        The projection is adapted like a convolution. The norm before it is averaged or repeated, which
        is exact where its weights don't differ from channel to channel, and near to it elsewhere.
        """
        in_chans = self.backbone.in_chans
        first, _, rest = name.partition("attention1.")
        columns = array.shape[-1] if array.ndim else 0
        if first != "tokens_to_token." or columns in (0, _WINDOW * in_chans) or columns % _WINDOW:
            return array
        # Named kqv in the performer, attn.qkv in the transformer.
        if rest in ("kqv.weight", "attn.qkv.weight"):
            rows = len(array)
            return adapt_channels(array.reshape(rows, -1, _WINDOW), in_chans).reshape(rows, -1)
        if rest in ("norm1.weight", "norm1.bias"):
            per_channel = array.reshape(1, -1, _WINDOW)
            # A mean over the channels where there is one left, a copy where there are more.
            scale = in_chans / per_channel.shape[1]
            return (adapt_channels(per_channel, in_chans) * scale).astype(array.dtype).reshape(-1)
        return array
