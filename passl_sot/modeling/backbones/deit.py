"""DeiT: data-efficient image transformer (Touvron, Cord, Douze, Massa, Sablayrolles, Jégou, "Training
data-efficient image transformers & distillation through attention", arXiv 2012.12877).

ViT as it is: patches through one Linear, a learned class token before them, a learned position table
added to all tokens, plain pre-norm blocks. DeiT's part is the training recipe, and a second token
that learns from a teacher (``distilled``), read by ``DistilledHead``.

Differences from the official code (facebookresearch/deit on timm 0.3.2): any input size that gives a patch
works, non-square ones too; heads are layers of their own, so that any head fits.
"""

from typing import Any

import paddle

from passl_sot.config import Count, Positive, Share, ShareByEpoch, Width
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import as_pair
from passl_sot.modeling.backbones.plain import PlainBackbone
from passl_sot.nn.patch_embed import PatchEmbed
from passl_sot.nn.token_embed import TokenEmbed, TokenEmbedName


@BACKBONES.register()
class DeiT(PlainBackbone):
    """The DeiT backbone; sizes Tiny, Small and Base are in ``configs/deit/``.

    Other arguments are those of ``PlainBackbone`` and ``ImageBackbone``.

    Args:
        patch_size: Side of a patch in pixels; not read with ``token_embed``.
        distilled: Whether a distillation token goes behind the class token.
        token_embed: One of SoT's networks in place of the patch projection (arXiv 2104.10935, section 4:
            "DeiT + ours"), usually with ``SecondOrderHead`` behind.
        token_dim: Width of its stem.
    """

    size_obstacle = ""

    def __init__(
        self,
        *,
        img_size: Count | list[Count] = 224,
        patch_size: Count = 16,
        in_chans: Count = 3,
        embed_dim: Width = 384,
        depth: Count = 12,
        num_heads: Count = 6,
        mlp_ratio: Positive = 4.0,
        qkv_bias: bool = True,
        drop_rate: Share = 0.0,
        attn_drop_rate: Share = 0.0,
        drop_path_rate: ShareByEpoch = 0.0,
        distilled: bool = False,
        token_embed: TokenEmbedName | None = None,
        token_dim: Count = 64,
    ) -> None:
        super().__init__(in_chans, embed_dim, 1 + distilled, [depth])
        size = as_pair(img_size)
        self.distilled = distilled
        if token_embed is None:
            self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
            self.patch_embed.resize(size)
        else:
            self.patch_embed = TokenEmbed(token_embed, size, in_chans, embed_dim, token_dim)
        self.add_prefix_tokens()
        self.add_position_table(self.patch_embed.grid_size(*size), self.patch_embed.stride)
        # LayerNorm's epsilon is timm's, not PyTorch's 1e-5 as in SoT and T2T-ViT.
        self.add_blocks(num_heads, mlp_ratio, qkv_bias, drop_rate, attn_drop_rate, drop_path_rate, 1e-6)
        self.resize(size)

    def _plan(self, size: tuple[int, int]) -> None:
        self.patch_embed.resize(size)
        grid = self.patch_embed.grid_size(*size)
        # As the official fine-tuning, though there from square to square only.
        self.resize_position_table(grid)
        self.plan_grid(grid, self.patch_embed.stride)

    def grid_of(self, height: Any, width: Any) -> tuple[Any, Any]:
        """See :meth:`PlainBackbone.grid_of`."""
        return self.patch_embed.grid_size(height, width)

    def make_words(self, x_bchw: paddle.Tensor) -> paddle.Tensor:
        """Images ``[B, in_chans, H, W]`` to patches ``[B, N, C]``."""
        return self.patch_embed(x_bchw)

    def no_weight_decay(self) -> set[str]:
        """The position table and the class token, as in the official recipe."""
        # dist_token IS decayed: the exceptions of timm 0.3.2 don't name it, though today's timm's do.
        return {"pos_embed", "cls_token"}
