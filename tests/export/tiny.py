"""Tiny models of every family and kind of head; several are exported as one graph.

Most of an export's time doesn't depend on its size.
"""

from types import SimpleNamespace
from typing import Any

import paddle
from paddle import nn

from passl_sot.modeling.backbones import build_backbone
from passl_sot.modeling.backbones.base import Tokens
from passl_sot.modeling.backbones.text_backbone import TextBackbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads import build_head

PLAIN: dict[str, Any] = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}
STAGES: dict[str, Any] = {"depths": [1, 2], "num_heads": [1, 2], "mlp_ratio": 2.0}
STVIT: dict[str, Any] = {"embed_dim": [8, 12], "stoken_size": [3, 1], "n_iter": [2, 1], "projection": 16}
STVIT |= {**STAGES, "layerscale": [False, True], "init_values": 0.3}
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "SoT": [
        {**PLAIN, "token_embed": "DenseNet", "token_dim": 8},
        {**PLAIN, "token_embed": "ResNet", "token_dim": 8, "every_size": True, "class_token": False},
    ],
    "T2TViT": [
        {**PLAIN, "token_dim": 8},
    ],
    "DeiT": [{**PLAIN, "patch_size": 8, "distilled": True}],
    "PiT": [{**STAGES, "head_dim": 8, "patch_size": 8, "stride": 4, "distilled": True}],
    # Grids that windows don't divide: what pads them is an operator of its own.
    "Swin": [{**STAGES, "embed_dim": 8, "patch_size": 6, "window_size": 3}],
    "STViT": [STVIT],
}
TEXT: dict[str, Any] = {**PLAIN, "vocab_size": 100, "max_positions": 40}
TEXTS: dict[str, list[dict[str, Any]]] = {
    "BERT": [{**TEXT, "depth": 2}, {**TEXT, "num_types": 3}],
    "RoBERTa": [TEXT],
    "GPT": [TEXT],
}
SVPN = {"name": "SvPN", "num_iters": 2}
NORMS = [None, "default", {**SVPN, "num_sv": 3}, {**SVPN, "num_sv": None, "alpha": 0.7}]
NORMS += [{"name": name} for name in ("EPN", "LN", "SqrtT", "SqrtD")]
HEADS: list[dict[str, Any]] = [{"name": "LinearHead", "pool": pool} for pool in ("token", "mean")]
HEADS += [{"name": "SecondOrderHead", "normalization": norm} for norm in NORMS]
# How outputs are fused doesn't depend on the normalization, whose graph is the larger part.
FUSIONS = ("concat", "sum_loss", "aggre_all")
HEADS += [{"name": "SecondOrderHead", "fusion_type": kind, "normalization": None} for kind in FUSIONS]
HEADS += [{"name": "SecondOrderHead", "representation": kind} for kind in ("GAP", "GCP", "fc", "none")]
HEADS += [{"name": "CrossCovarianceHead", "reduction": [6, 4], "normalization": n} for n in (SVPN, None)]
# What of a head obeys the mask doesn't depend on the normalization either.
TEXT_HEADS: list[dict[str, Any]] = [{"name": "PoolerHead"}]
for _node in HEADS:
    TEXT_HEADS.append(_node)
    if _node["name"] in ("SecondOrderHead", "CrossCovarianceHead") and _node.get("normalization") is None:
        TEXT_HEADS.append({**_node, "mask_words": False})


class Together(nn.Layer):
    """The outputs of several models of the same inputs, side by side; the first takes the most of them."""

    def __init__(self, models: list[Classifier]):
        super().__init__()
        self.models = nn.LayerList(models)
        self.eval()

    @property
    def backbone(self) -> Any:
        parts = [model.backbone for model in self.models]
        if isinstance(parts[0], TextBackbone):
            return parts[0]
        return SimpleNamespace(
            in_chans=parts[0].in_chans,
            img_size=parts[0].img_size,
            input_specs=parts[0].input_specs,
            example_inputs=parts[0].example_inputs,
            feature_info=parts[0].feature_info,
            size_obstacle="".join(part.size_obstacle for part in parts),
            open_size=lambda: [part.open_size() for part in parts],
        )

    def resize(self, img_size: list[int]) -> None:
        for model in self.models:
            model.resize(img_size)

    def forward(
        self,
        x: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        given = [x, attention_mask, token_type_ids]
        parts = [model(*given[: len(model.backbone.input_specs())]) for model in self.models]
        return paddle.concat(parts, axis=1)


class Heads(nn.Layer):
    """Several heads on one backbone."""

    def __init__(self, architecture: dict[str, Any], heads: list[dict[str, Any]]):
        super().__init__()
        self.backbone = build_backbone(architecture)
        own = {"num_classes": 4, "in_channels": self.backbone.num_features}
        own["num_prefix_tokens"] = self.backbone.num_prefix_tokens
        small = {"SecondOrderHead": {"num_heads": 2, "wr_dim": 6}}
        self.heads = nn.LayerList(
            build_head({**node, **own, **small.get(node["name"], {})}) for node in heads
        )
        self.backbone.compute_padding = not all(head.mask_words for head in self.heads)

    def forward(
        self,
        x: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        token_type_ids: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        given = [part for part in (x, attention_mask, token_type_ids) if part is not None]
        tokens = self.backbone(*given)
        tokens = tokens if isinstance(tokens, Tokens) else (tokens,)
        return paddle.concat([head(*tokens) for head in self.heads], axis=1)


def classifier(name: str, **settings: Any) -> Classifier:
    """A family's model of 4 classes, of 32-pixel images or texts, with the head that its tokens ask for."""
    architecture = {"name": name, **settings}
    head: dict[str, Any] = {"num_classes": 4}
    if "vocab_size" in settings:
        # The few words of a short text may lie across svPN's start vector, which enlarges every rounding.
        head["normalization"] = None
    else:
        architecture["img_size"] = 32
    backbone = build_backbone(architecture)
    head["in_channels"] = backbone.num_features
    head["num_prefix_tokens"] = backbone.num_prefix_tokens
    if backbone.num_prefix_tokens == 2:
        return Classifier(architecture, {"name": "DistilledHead", **head})
    return Classifier(architecture, {"name": "SecondOrderHead", "num_heads": 2, "wr_dim": 4, **head})
