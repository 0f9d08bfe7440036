"""What becomes of one image inside a backbone: tokens step by step and stage by stage, and super tokens.

Legend: H, W of the image in pixels; R rows and C columns of a grid of tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn

from passl_sot.config import UserError
from passl_sot.modeling.backbones.base import Backbone, Grid, ImageBackbone, TokenStep
from passl_sot.nn.super_tokens import SuperTokenAttention

_BLOCKS = 4  # shown of a backbone whose blocks are all alike


@dataclass(frozen=True)
class Map:
    """Tokens as a map.

    Attributes:
        title: What made them.
        values: ``[width, R, C]``.
        stride: Pixels per token along each side.
        window: As of `TokenStep`.
    """

    title: str
    values: np.ndarray
    stride: int
    window: tuple[int, int] | None = None

    @property
    def grid(self) -> Grid:
        """Rows and columns."""
        return self.values.shape[1], self.values.shape[2]


@dataclass(frozen=True)
class SuperTokens:
    """The super tokens of a stage's last block.

    Attributes:
        title: Of the stage.
        numbers: Of each place of the stage's map its super token, counted row by row.
        grid: Rows and columns of super tokens.
        stride: Pixels per place of the map along each side.
        window: Places of the map per super token along each side.
    """

    title: str
    numbers: np.ndarray
    grid: Grid
    stride: int
    window: int

    @property
    def plain(self) -> np.ndarray:
        """The numbers as they were if each place belonged to the window it lies in."""
        rows, columns = (np.arange(side) // self.window for side in self.numbers.shape)
        return rows[:, None] * self.grid[1] + columns


@dataclass
class TokenFlow:
    """What a backbone's forward pass makes of one image.

    Attributes:
        maps: In order, of the steps to tokens and then of stages, or of some blocks.
        super_tokens: Of each stage that has more than one.
    """

    maps: list[Map] = field(default_factory=list)
    super_tokens: list[SuperTokens] = field(default_factory=list)


@contextmanager
def _recording(steps: Sequence[TokenStep], attentions: Sequence[nn.Layer]) -> Iterator[tuple[dict, dict]]:
    """Keeps, by number, what the steps' layers give or take and what the attentions take in this block."""
    seen: dict[int, Any] = {}
    taken: dict[int, Any] = {}

    def keep(store: dict[int, Any], place: int) -> Any:
        def hook(layer: nn.Layer, inputs: tuple[Any, ...], *outputs: Any) -> None:
            store[place] = outputs[0] if outputs else inputs

        return hook

    hooks = [layer.register_forward_pre_hook(keep(taken, i)) for i, layer in enumerate(attentions)]
    for i, step in enumerate(steps):
        register: Any = step.layer.register_forward_post_hook
        if step.enters:
            register = step.layer.register_forward_pre_hook
        hooks.append(register(keep(seen, i)))
    try:
        yield seen, taken
    finally:
        for hook in hooks:
            hook.remove()


def token_flow(backbone: Backbone, image_bchw: paddle.Tensor) -> TokenFlow:
    """Records one forward pass, in evaluation mode.

    Args:
        backbone: For images, or else a UserError.
        image_bchw: One image as the model takes it, ``[1, in_chans, H, W]``.
    """
    if not isinstance(backbone, ImageBackbone):
        raise UserError(f"{type(backbone).__name__} takes texts: only images have grids of tokens to draw")
    steps = backbone.token_steps()
    sampled = _sampling(backbone)
    chosen = list(range(len(backbone.feature_info)))
    if len(backbone.depths) == 1:
        chosen = sorted({round(i) for i in np.linspace(0, len(chosen) - 1, _BLOCKS)})
    with paddle.no_grad(), _recording(steps, list(sampled.values())) as (seen, taken):
        outputs = backbone.forward_intermediates(image_bchw, chosen)
        # While recording, so that the association is that of the very inputs of this pass.
        assigned = [layer.assign(*taken[i]) for i, layer in enumerate(sampled.values())]
    flow = TokenFlow()
    for i, step in enumerate(steps):
        tensor = seen[i][0] if step.enters else seen[i]
        values = tensor[0].numpy()
        if step.grid is not None and values.ndim == 2:
            values = values.T.reshape(-1, *step.grid)
        flow.maps.append(Map(step.title, values, step.stride, step.window))
    for s, output in zip(chosen, outputs, strict=True):
        flow.maps.append(Map(_title(backbone, s), output[0].numpy(), backbone.feature_info[s]["reduction"]))
    for (s, layer), (numbers, grid) in zip(sampled.items(), assigned, strict=True):
        if grid != (1, 1):
            stride = backbone.feature_info[s]["reduction"]
            found = SuperTokens(_title(backbone, s), numbers[0], grid, stride, layer.window)
            flow.super_tokens.append(found)
    return flow


def _sampling(backbone: ImageBackbone) -> dict[int, SuperTokenAttention]:
    """The last attention of each stage that samples super tokens, by the stage's number."""
    layers = dict(backbone.named_sublayers())
    found = {}
    for s, info in enumerate(backbone.feature_info):
        layer = layers.get(f"{info['module']}.attn")
        if isinstance(layer, SuperTokenAttention) and layer.window > 1:
            found[s] = layer
    return found


def _title(backbone: Backbone, s: int) -> str:
    if len(backbone.depths) == 1:
        return f"block {s + 1} of {backbone.depths[0]}"
    return f"stage {s + 1} of {len(backbone.depths)}"


def principal_colours(values_crc: np.ndarray, before: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """The three principal components of a map's tokens as red, green and blue.

    Each component is stretched to the whole range between its 1st and 99th percentile. Its sign, which has no
    meaning, makes it alike the same one of the picture before; in a first picture the rim is dark.

    Args:
        values_crc: ``[width, R, C]``.
        before: What this gave for another map, of any size.

    Returns:
        uint8 ``[R, C, 3]``, and the fraction of the variance that the components hold.
    """
    width, rows, columns = values_crc.shape
    tokens = values_crc.reshape(width, -1).T.astype("float64")
    tokens -= tokens.mean(axis=0)
    # By the smaller of both products, a small part of the time of singular values.
    if width <= len(tokens):
        vectors = tokens @ np.linalg.eigh(tokens.T @ tokens)[1][:, :-4:-1]
    else:
        values, vectors = np.linalg.eigh(tokens @ tokens.T)
        vectors = vectors[:, :-4:-1] * np.sqrt(np.maximum(values[:-4:-1], 0.0))
    colours = np.zeros((rows * columns, 3))
    colours[:, : vectors.shape[1]] = vectors
    total = float((tokens**2).sum())
    share = float((vectors**2).sum()) / total if total else 1.0
    if before is None:
        guide = np.zeros((rows, columns, 3))
        guide[1:-1, 1:-1] = 1.0
    else:
        guide = cv2.resize(before, (columns, rows), interpolation=cv2.INTER_AREA).astype("float64")
    # Components have the mean 0, so that the guide's doesn't matter.
    colours *= np.where((colours * guide.reshape(-1, 3)).sum(axis=0) < 0, -1.0, 1.0)
    low, high = np.percentile(colours, (1, 99), axis=0)
    span = np.where(high - low > 1e-9 * np.sqrt(total), high - low, np.inf)  # no colors of rounding noise
    colours = np.clip((colours - low) / span, 0, 1)
    return (255 * colours.reshape(rows, columns, 3)).round().astype(np.uint8), share
