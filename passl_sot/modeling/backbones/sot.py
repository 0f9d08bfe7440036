"""SoT: second-order transformer (Xie, Zeng, Wang, Zhou, Li, "So-ViT: Mind Visual Tokens for
Vision Transformer" / "SoT: Delving Deeper into Classification Head for Transformer",
arXiv 2104.10935).

A small densely connected network turns the image into visual words, a learned class token goes
before them, a fixed sinusoid tells positions, and plain pre-norm transformer blocks follow. Its
mark is the head, ``SecondOrderHead``, which classifies by the class token AND by second-order
statistics of the words.

Differences from the official code (jiangtaoxie/SoT): any input size that gives a token works, non-square
and odd ones too; the position table is not in the state dict; ``class_token: false`` works; models of one
process share nothing; dropouts are there, at 0 in every published recipe.
"""

from typing import Any

import paddle

from passl_sot.config import Count, Positive, Share, ShareByEpoch, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import TokenStep, as_pair, steps_of
from passl_sot.modeling.backbones.plain import PlainBackbone
from passl_sot.nn.token_embed import TokenEmbed, TokenEmbedName


@BACKBONES.register()
class SoT(PlainBackbone):
    """The SoT backbone; sizes Tiny, Small and Base are in ``configs/sot/``.

    Other arguments are those of ``PlainBackbone`` and ``ImageBackbone``.

    Args:
        token_embed: The network that makes visual words.
        token_dim: Width of its stem (64 in every published model).
        large_output: More words: of the networks that can, DenseNet stops at a quarter of the image size
            (Swin's input) and Inception at half of it; the others stay as they are, ResNet is refused.
        class_token: Whether a learned class token goes before the words.
        every_size: Whether the ResNet network has the layers of 224 pixels at every size, so that weights of
            224 load below (So-ViT); officially its last shortcut has no projection there.
    """

    size_obstacle = ""

    def __init__(
        self,
        *,
        img_size: Count | list[Count] = 224,
        in_chans: Count = 3,
        embed_dim: Width = 384,
        depth: Count = 14,
        num_heads: Count = 6,
        mlp_ratio: Positive = 3.5,
        qkv_bias: bool = False,
        drop_rate: Share = 0.0,
        attn_drop_rate: Share = 0.0,
        drop_path_rate: ShareByEpoch = 0.0,
        token_embed: TokenEmbedName = "DenseNet",
        token_dim: Count = 64,
        large_output: bool = False,
        class_token: bool = True,
        every_size: bool = False,
    ) -> None:
        super().__init__(in_chans, embed_dim, int(class_token), [depth])
        self.class_token = class_token
        size = as_pair(img_size)
        self.visual_tokens = TokenEmbed(
            token_embed, size, in_chans, embed_dim, token_dim, large_output, every_size
        )
        self.add_prefix_tokens()
        # The class token is decayed like any matrix, unlike in the other families: the official class names
        # no exceptions, so that there is no no_weight_decay here.
        self.add_blocks(num_heads, mlp_ratio, qkv_bias, drop_rate, attn_drop_rate, drop_path_rate, 1e-5)
        self.resize(size)

    def _plan(self, size: tuple[int, int]) -> None:
        self.visual_tokens.resize(size)
        self.plan_grid(self.visual_tokens.grid_size(*size), self.visual_tokens.stride)
        # Made anew for the grid, where the official table is fixed to 14x14.
        self.use_sinusoid()

    def grid_of(self, height: Any, width: Any) -> tuple[Any, Any]:
        """See :meth:`PlainBackbone.grid_of`."""
        return self.visual_tokens.grid_size(height, width)

    def make_words(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to visual words ``[B, N, C]``."""
        return self.visual_tokens(x_bchw)

    def token_steps(self) -> list[TokenStep]:
        """See `ImageBackbone.token_steps`."""
        return steps_of(self.visual_tokens)
