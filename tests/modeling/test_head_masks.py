"""Heads on tokens of which some don't count: padding changes nothing, whatever it holds."""

import numpy as np
import paddle
import pytest

from passl_sot.modeling.heads import build_head
from passl_sot.nn.batch_norm import synchronize_batch_norm

BASE = {"num_classes": 5, "in_channels": 12}
SECOND = {"name": "SecondOrderHead", "num_heads": 2, "wr_dim": 4}
CROSS = {"name": "CrossCovarianceHead", "reduction": [4, 3]}
NORMS = [{"name": "SvPN"}, {"name": "SvPN", "num_iters": 2}, {"name": "EPN"}, {"name": "SqrtD"}]
NORMS += [{"name": "SqrtT"}, {"name": "LN"}, None]
FUSIONS = ["sum_fc", "concat", "sum_loss", "aggre_all"]
HEADS = [{**SECOND, "representation": r, "fusion_type": f} for r in ("MGCrP", "GCP", "GAP") for f in FUSIONS]
HEADS += [{**SECOND, "representation": r} for r in ("fc", "none")]
HEADS += [{**SECOND, "representation": r, "num_prefix_tokens": 0} for r in ("MGCrP", "GCP", "GAP")]
HEADS += [{**SECOND, "representation": "GCP", "normalization": None}]
HEADS += [{**SECOND, "normalization": norm} for norm in NORMS]
HEADS += [{**CROSS, "normalization": norm} for norm in NORMS if norm != {"name": "LN"}]
HEADS += [{**CROSS, "normalization": {"name": "SvPN"}, "num_prefix_tokens": 0}]
HEADS += [{"name": "LinearHead", "pool": pool} for pool in ("mean", "token")] + [{"name": "PoolerHead"}]
LENGTHS = [7, 3, 2, 5]  # with the class token


def title(node: dict) -> str:
    norm = node.get("normalization", {}) or {"name": "none"}
    parts = [node["name"], node.get("representation"), node.get("fusion_type"), norm.get("name")]
    return "-".join(str(part) for part in parts if part) + f"-{node.get('num_prefix_tokens', 1)}"


def build(node: dict, **more) -> paddle.nn.Layer:
    paddle.seed(0)
    head = build_head({**BASE, **node, **more})
    with paddle.no_grad():
        for parameter in head.parameters():
            if not parameter.stop_gradient:
                parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))
    head.eval()
    return head.to(dtype="float64")


def batch_of(lengths: list[int]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Tokens, huge where they don't count, and the mask."""
    generator = np.random.default_rng(3)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    x = generator.standard_normal((*mask.shape, 12))
    x = paddle.to_tensor(np.where(mask[..., None], x, 100 * x))
    x.stop_gradient = False
    return x, paddle.to_tensor(mask)


def outputs(head, x, mask=None) -> paddle.Tensor:
    out = head(x, mask)
    return paddle.concat(out, axis=1) if isinstance(out, tuple) else out


def gradients(head) -> dict[str, np.ndarray]:
    found = {key: p.grad.numpy() for key, p in head.named_parameters() if p.grad is not None}
    head.clear_gradients()
    return found


@pytest.mark.parametrize("node", HEADS, ids=title)
def test_a_masked_batch_equals_each_text_alone(node):
    head = build(node)
    if node["name"] == "SecondOrderHead":  # its layers have no statistics
        head.train()
    x, mask = batch_of(LENGTHS)
    out = outputs(head, x, mask)
    upstream = paddle.randn(out.shape).astype("float64")
    (out * upstream).sum().backward()
    together = gradients(head)
    for i, length in enumerate(LENGTHS):
        own = x[i : i + 1, :length].detach()
        own.stop_gradient = False
        alone = outputs(head, own)
        np.testing.assert_allclose(out[i].numpy(), alone[0].numpy(), rtol=1e-8, atol=1e-8)
        (alone * upstream[i]).sum().backward()
        np.testing.assert_allclose(x.grad[i, :length].numpy(), own.grad[0].numpy(), rtol=1e-8, atol=1e-8)
        assert not x.grad[i, length:].any()
    for key, value in gradients(head).items():
        np.testing.assert_allclose(together[key], value, rtol=1e-8, atol=1e-8, err_msg=key)


@pytest.mark.parametrize("joined", [False, True])
def test_batch_norm_learns_from_words_that_count(joined):
    head = build({**CROSS, "normalization": {"name": "SvPN"}})
    if joined:
        synchronize_batch_norm(head, lambda tensor: tensor)
    x, mask = batch_of(LENGTHS)
    words = x[:, 1:].numpy()[mask[:, 1:].numpy()]
    head.train()
    out = head(x, mask)
    out.square().sum().backward()
    assert np.isfinite(x.grad.numpy()).all() and not x.grad.numpy()[~mask.numpy()].any()
    count = len(words)
    for branch in head.representation.conv_dr_block:
        reduce, norm = branch
        y = words @ reduce.weight.numpy()
        np.testing.assert_allclose(norm._mean.numpy(), 0.1 * y.mean(0), rtol=1e-8, atol=1e-8)
        variance = 0.9 + 0.1 * y.var(0) * count / (count - 1)
        np.testing.assert_allclose(norm._variance.numpy(), variance, rtol=1e-8)
        # With these statistics in place, evaluation computes what training did.
        norm._mean.set_value(y.mean(0))
        norm._variance.set_value(y.var(0))
    head.eval()
    np.testing.assert_allclose(head(x, mask).numpy(), out.numpy(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("node", HEADS, ids=title)
@pytest.mark.parametrize("lengths", [[1, 4], [1, 1]])
@pytest.mark.parametrize("training", [False, True])
def test_a_text_without_words_gives_finite_numbers(node, lengths, training):
    head = build(node)
    if training:
        head.train()
    x, mask = batch_of(lengths)
    out = outputs(head, x, mask)
    out.square().sum().backward()
    assert np.isfinite(out.numpy()).all() and np.isfinite(x.grad.numpy()).all()
    assert all(np.isfinite(value).all() for value in gradients(head).values())
    assert all(np.isfinite(value.numpy()).all() for value in head.state_dict().values())


@pytest.mark.parametrize("node", [SECOND, CROSS], ids=title)
@pytest.mark.parametrize("training", [False, True])
def test_words_are_pooled_whatever_the_mask_says_where_that_is_asked(node, training):
    unmasked, plain = (build(node, mask_words=False) for _ in range(2))
    if training:
        unmasked.train()
        plain.train()
    x, mask = batch_of(LENGTHS)
    np.testing.assert_array_equal(unmasked(x, mask).numpy(), plain(x).numpy())
    for key, value in plain.state_dict().items():
        np.testing.assert_array_equal(unmasked.state_dict()[key].numpy(), value.numpy(), err_msg=key)
