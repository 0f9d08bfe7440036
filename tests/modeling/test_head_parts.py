"""The logits of the class token and of words alone, of heads that fuse them."""

import numpy as np
import paddle
import pytest

from passl_sot.modeling.heads import build_head
from tests.modeling.test_head_masks import batch_of, build

SECOND = {"name": "SecondOrderHead", "num_heads": 2, "wr_dim": 4}
CROSS = {"name": "CrossCovarianceHead", "reduction": [4, 3], "normalization": {"name": "SvPN"}}
FUSED = [
    {**SECOND, "representation": r, "fusion_type": f}
    for r in ("MGCrP", "GCP", "GAP")
    for f in ("sum_fc", "sum_loss", "concat")
]
FUSED.append(CROSS)
WHOLE = [{**SECOND, "fusion_type": f} for f in ("aggre_all", "words")]
WHOLE += [{**SECOND, "representation": r} for r in ("fc", "none")]
WHOLE += [{**node, "num_prefix_tokens": 0} for node in (SECOND, CROSS)] + [{"name": "LinearHead"}]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("node", FUSED, ids=str)
def test_parts_add_up_and_read_their_own_tokens(node, masked):
    head = build(node)
    x, mask = batch_of([7, 3])
    mask = mask if masked else None
    assert head.parts == ("ClassT", "WordT")
    cls, words = (head.forward_part(part, x, mask) for part in head.parts)
    bias = head.visual_fc.bias.numpy() if node.get("fusion_type") == "concat" else 0.0
    np.testing.assert_allclose((cls + words).numpy() + bias, head(x, mask).numpy(), rtol=1e-8, atol=1e-8)
    other = paddle.randn([2, 1, 12], "float64")
    swapped = paddle.concat([other, x[:, 1:]], axis=1)
    np.testing.assert_array_equal(head.forward_part("WordT", swapped, mask).numpy(), words.numpy())
    assert float((head.forward_part("ClassT", swapped, mask) - cls).abs().max()) > 1e-3
    swapped = paddle.concat([x[:, :1], x[:, 1:] + 1.0 + paddle.randn(x[:, 1:].shape, "float64")], axis=1)
    np.testing.assert_array_equal(head.forward_part("ClassT", swapped, mask).numpy(), cls.numpy())


@pytest.mark.parametrize("node", WHOLE, ids=str)
def test_other_heads_refuse(node):
    head = build_head({"num_classes": 5, "in_channels": 12, **node})
    assert head.parts == ()
    for part in ("ClassT", "WordT", "Words"):
        with pytest.raises(ValueError, match=f"has no part '{part}', as .* take all"):
            head.forward_part(part, paddle.zeros([2, 7, 12]))
