"""The architectures that PaddleClas and this project both have, by PaddleClas's names."""

from typing import Any

_VIT = {
    "DeiT_tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "DeiT_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "DeiT_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "ViT_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "ViT_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
# DeiT's sizes come first: of two names for one architecture the first is written.
_VIT_NAMES = (
    *(f"DeiT_{size}{kind}_patch16_224" for size in ("tiny", "small", "base") for kind in ("", "_distilled")),
    *(f"DeiT_base{kind}_patch16_384" for kind in ("", "_distilled")),
    *(f"ViT_{size}_patch{side}" for size in ("base", "large") for side in ("16_224", "16_384", "32_384")),
)
_SWIN = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.2},
    "small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.3},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.5},
    "large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "drop_path_rate": 0.1},
}
_SWIN_NAMES = (
    *(f"SwinTransformer_{size}_patch4_window7_224" for size in _SWIN),
    *(f"SwinTransformer_{size}_patch4_window12_384" for size in ("base", "large")),
)


def _vit(name: str) -> dict[str, Any]:
    family, size, *more, patch, side = name.split("_")
    return {
        "name": "DeiT",
        "img_size": int(side),
        "patch_size": int(patch.removeprefix("patch")),
        **_VIT[f"{family}_{size}"],
        "distilled": "distilled" in more,
    }


def _swin(name: str) -> dict[str, Any]:
    _, size, _, window, side = name.split("_")
    sizes = {"img_size": int(side), "window_size": int(window.removeprefix("window"))}
    return {"name": "Swin", **sizes, **_SWIN[size]}


# PaddleClas's name to the arguments of our backbone, in full but for rates that PaddleClas leaves at 0.
ARCHITECTURES: dict[str, dict[str, Any]] = {name: _vit(name) for name in _VIT_NAMES} | {
    name: _swin(name) for name in _SWIN_NAMES
}
# What may be set beside a name, in both projects by this word; Swin's path rate comes with its name.
RATES = ("drop_rate", "attn_drop_rate", "drop_path_rate")
_MEANT_ANYWAY = {"in_chans": 3, "mlp_ratio": 4.0, "qkv_bias": True, "token_embed": None, "patch_norm": True}


def head_of(architecture: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """The head that PaddleClas puts on an architecture."""
    if architecture["name"] == "Swin":
        width = architecture["embed_dim"] * 2 ** (len(architecture["depths"]) - 1)
        pooled = {"pool": "mean", "num_prefix_tokens": 0}
        return {"name": "LinearHead", "num_classes": num_classes, "in_channels": width, **pooled}
    kind = "LinearHead"
    if architecture["distilled"]:
        kind = "DistilledHead"
    return {"name": kind, "num_classes": num_classes, "in_channels": architecture["embed_dim"]}


def paddleclas_name(architecture: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """PaddleClas's name of one of our backbones, and what is to be set beside it; None if it has none.

    Args:
        architecture: All arguments, defaults included, and the name.
    """
    size = architecture["img_size"]
    if isinstance(size, list) and size[0] == size[-1]:
        size = size[0]
    if any(architecture.get(key, meant) != meant for key, meant in _MEANT_ANYWAY.items()):
        return None
    found = None
    for name, theirs in ARCHITECTURES.items():
        fixed = {key: value for key, value in theirs.items() if key not in (*RATES, "img_size")}
        if all(architecture.get(key) == value for key, value in fixed.items()):
            if theirs["img_size"] == size:
                return name, {}
            found = found or (name, {"img_size": size})
    return found
