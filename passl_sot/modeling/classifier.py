"""The classifier: a backbone and a head that fit each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from passl_sot.config import Config, ConfigError, Fault, path_of
from passl_sot.modeling.backbones import Backbone, build_backbone
from passl_sot.modeling.backbones.base import Features, ImageBackbone, Tokens
from passl_sot.modeling.heads import Head, build_head

Outputs = paddle.Tensor | tuple[paddle.Tensor, ...]


class Classifier(nn.Layer):
    """Backbone and head from their configuration nodes, checked against each other.

    The inputs are the backbone's: images ``[B, in_chans, H, W]`` or anything else it takes, and checks.
    Parameters are named ``backbone.*`` and ``head.*``.

    Args:
        architecture: The backbone's node ``{name: ..., ...}``.
        head: The head's.

    Raises:
        ConfigError: A node is faulty, or the two do not fit; says which entry to write.
    """

    # The ConversionReport of the weights that create_model loaded. Not of that type: models come before
    # the conversion of weights in the house.
    weights_report: Any = None

    def __init__(self, architecture: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone: Backbone = build_backbone(architecture)
        self.head: Head = build_head(head)
        faults = self._misfits(architecture, head)
        if faults:
            raise ConfigError(faults)
        # A user's own head need not know of it.
        self.backbone.compute_padding = not getattr(self.head, "mask_words", True)

    def _misfits(self, architecture: Mapping[str, Any], head: Mapping[str, Any]) -> list[Fault]:
        arch_path = _path(architecture, "model.architecture")
        head_path = _path(head, "model.head")
        gives = f"but the backbone {architecture['name']} gives"
        faults = []

        def write(key: str, value: int, sentence: str) -> None:
            text = f"{sentence}: write {head_path}.{key}: {value}"
            origin = head.origin_of(key) if isinstance(head, Config) else None
            faults.append(Fault(f"{head_path}.{key}", text, origin))

        # Both misfits are told at once: a head copied from another config has usually both.
        width = self.backbone.num_features
        if self.head.in_channels != width:
            taken = f"the head takes tokens of width {self.head.in_channels}"
            source = f"{arch_path}.embed_dim" if architecture.get("embed_dim") == width else arch_path
            write("in_channels", width, f"{taken}, {gives} {width} ({source})")
        prefix = self.backbone.num_prefix_tokens
        if self.head.num_prefix_tokens != prefix:
            taken = f"the head expects {self.head.num_prefix_tokens} token(s) before the words"
            switch = f" ({arch_path}.class_token)" if hasattr(self.backbone, "class_token") else ""
            write("num_prefix_tokens", prefix, f"{taken}, {gives} {prefix}{switch}")
        return faults

    @property
    def num_classes(self) -> int:
        """Number K of classes."""
        return self.head.num_classes

    @property
    def num_layers(self) -> int:
        """The greatest number that ``layer_of`` gives."""
        return self.backbone.num_layers

    # Each argument by its name, as Paddle's graphs know no others.
    def forward_features(
        self, x: Any, attention_mask: paddle.Tensor | None = None, token_type_ids: paddle.Tensor | None = None
    ) -> Any:
        """The backbone's inputs to tokens ``[B, P+N, C]``, of texts to `Tokens`, which have a mask.

        Args:
            x: Images ``[B, in_chans, H, W]``, numbers of the tokens of texts ``[B, L]``, or what else the
                backbone takes.
            attention_mask: Of texts, see `TextBackbone`.
            token_type_ids: The same.
        """
        return self.backbone(*(given for given in (x, attention_mask, token_type_ids) if given is not None))

    def forward_head(self, features: Features, pre_logits: bool = False) -> Outputs:
        """Tokens to logits ``[B, K]`` (or to parts of them, see the head).

        Args:
            features: Tokens ``[B, P+N, C]``, as ``forward_features`` gives them.
            pre_logits: Give the features ``[B, F]`` that the head's last layers take instead.
        """
        tokens = features if isinstance(features, Tokens) else (features,)
        return self.head.pre_logits(*tokens) if pre_logits else self.head(*tokens)

    def forward(
        self, x: Any, attention_mask: paddle.Tensor | None = None, token_type_ids: paddle.Tensor | None = None
    ) -> Outputs:
        """The backbone's inputs to logits ``[B, K]`` (or to parts of them, see the head).

        Args:
            x, attention_mask, token_type_ids: As for ``forward_features``.
        """
        return self.forward_head(self.forward_features(x, attention_mask, token_type_ids))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layers; everything else stays.

        Args:
            num_classes: K, or 0 for no last layers: outputs are then features ``[B, F]``.
        """
        if num_classes == 0:
            self.head.remove_classifier()
        else:
            self.head.reset_classifier(num_classes)

    def resize(self, img_size: int | Sequence[int]) -> None:
        """Change the input size of a backbone for images; the weights stay.

        Args:
            img_size: Side in pixels, or [height, width].
        """
        self.backbone.resize(img_size)

    def set_recompute(self, on: bool = True) -> None:
        """Trade time for memory: recompute activations of the blocks in the backward pass.

        Args:
            on: Whether to.
        """
        self.backbone.set_recompute(on)

    def set_epoch(self, epoch: int) -> None:
        """See `Backbone.set_epoch`."""
        self.backbone.set_epoch(epoch)

    def no_weight_decay(self) -> set[str]:
        """See `Backbone.no_weight_decay`; full names."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def layer_of(self, name: str) -> int:
        """Depth of a parameter, by its full name, for layer-wise decay: the head is the last."""
        part, _, rest = name.partition(".")
        return self.backbone.layer_of(rest) if part == "backbone" else self.num_layers


class FeatureInfo(list[dict[str, Any]]):
    """What ``feature_info`` of a backbone says of some of its maps, in order."""

    def channels(self) -> list[int]:
        """The channels of each map."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Pixels of the image per place of each map, along each side."""
        return [info["reduction"] for info in self]


class FeatureMaps(nn.Layer):
    """A backbone for images whose output is a list of feature maps, for dense tasks.

    Args:
        backbone: The backbone.
        indices: Which, as in `ImageBackbone.forward_intermediates`; a ValueError if there is no such
            map, or none at all.
    """

    weights_report: Any = None  # as a Classifier's

    def __init__(self, backbone: Backbone, indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(backbone, ImageBackbone):
            raise ValueError(f"{type(backbone).__name__} is no backbone for images: it has no feature maps")
        self.backbone = backbone
        self.out_indices = backbone.pick_maps(indices)
        self.feature_info = FeatureInfo(backbone.feature_info[i] for i in self.out_indices)

    def forward(self, x_bchw: paddle.Tensor) -> list[paddle.Tensor]:
        """Images to maps ``[B, C, H', W']``, not normalized.

        Args:
            x_bchw: Images ``[B, in_chans, H, W]``.
        """
        return self.backbone.forward_intermediates(x_bchw, self.out_indices)


def _path(node: Mapping[str, Any], default: str) -> str:
    # A plain dict, of a program, has no path of its own.
    return path_of(node) or default
