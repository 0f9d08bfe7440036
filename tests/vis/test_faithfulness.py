"""Insertion and deletion: a model whose evidence is known, the curves' ends, texts."""

import numpy as np
import paddle
import pytest

from passl_sot.modeling.classifier import Classifier
from passl_sot.vis.faithfulness import faithfulness
from passl_sot.vis.relevance import explain, methods_of, upsample

PATCH = 6  # of 16, row by row: the second of four rows, the third of four columns
INSIDE = (slice(8, 16), slice(16, 24))
WIDTH, BRIGHT = 24, 20  # channel of a patch's brightness; the first 16 tell its place


@pytest.fixture(scope="module")
def planted() -> Classifier:
    """A DeiT of one block, whose class token attends to one patch and takes over its brightness."""
    architecture = {"name": "DeiT", "img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 1}
    head = {"name": "LinearHead", "num_classes": 2, "in_channels": WIDTH}
    model = Classifier({**architecture, "num_heads": 1}, head)
    backbone, attn = model.backbone, model.backbone.blocks[0].attn
    for parameter in model.parameters():
        if parameter is not backbone.norm.weight:
            parameter.set_value(paddle.zeros_like(parameter))
    for norm in (backbone.blocks[0].norm1, backbone.norm):
        norm.weight.set_value(paddle.ones([WIDTH]))

    def fill(parameter: paddle.Tensor, places: list[tuple], value: float) -> None:
        array = parameter.numpy().copy()
        for place in places:
            array[place] = value
        parameter.set_value(paddle.to_tensor(array))

    fill(backbone.patch_embed.proj.weight, [(BRIGHT,)], 1 / 192)
    fill(backbone.pos_embed, [(0, 1 + i, i) for i in range(16)], 10.0)
    fill(backbone.cls_token, [(0, 0, PATCH)], 10.0)
    same = [(i, i) for i in range(16)] + [(i, WIDTH + i) for i in range(16)]
    fill(attn.qkv.weight, same, 2.0)
    fill(attn.qkv.weight, [(BRIGHT, 2 * WIDTH + BRIGHT)], 1.0)
    fill(attn.proj.weight, [(i, i) for i in range(WIDTH)], 10.0)
    fill(model.head.fc.weight, [(BRIGHT, 1)], 8.0)
    fill(model.head.fc.bias, [(0,)], 4.0)
    model.eval()
    return model


@pytest.fixture(scope="module")
def images() -> paddle.Tensor:
    """Noise, and the one patch bright."""
    x = np.random.default_rng(0).normal(0, 0.3, (3, 3, 32, 32)).astype(np.float32)
    x[(slice(None), slice(None), *INSIDE)] += 2.0
    return paddle.to_tensor(x)


def test_a_planted_patch_is_found_and_judged(planted, images):
    other = images.numpy().copy()
    other[(slice(None), slice(None), *INSIDE)] = 0.0
    with paddle.no_grad():  # it looks there, and there alone
        assert list(planted(images).argmax(1)) == [1, 1, 1]
        assert list(planted(paddle.to_tensor(other)).argmax(1)) == [0, 0, 0]
    for method in methods_of(planted):
        maps = explain(planted, images, 1, method=method).maps
        flat = maps.reshape(3, -1)
        assert (flat.argmax(1) == PATCH).all(), method
        assert (flat[:, PATCH] > 0.8 * flat.sum(1)).all() or method in ("grad_cam", "rollout")
        ones = np.ones(3, int)
        right = faithfulness(planted, images, maps, ones, steps=16).areas()
        wrong = faithfulness(planted, images, maps.max() - maps, ones, steps=16).areas()
        assert (right["insertion"] > 0.8).all() and (right["deletion"] < 0.15).all(), (method, right)
        assert (wrong["insertion"] < right["random_insertion"]).all()
        assert (wrong["deletion"] > right["random_deletion"]).all()
        assert (right["random_insertion"] < right["insertion"]).all()
        assert np.array_equal(wrong["random_deletion"], right["random_deletion"])


def test_curves_lead_from_one_image_to_another(planted, images):
    ones = np.ones(3, int)
    maps = np.random.default_rng(1).random((3, 5, 7), np.float32)
    curves = faithfulness(planted, images, maps, ones, steps=4)

    def probability(x: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return paddle.nn.functional.softmax(planted(paddle.to_tensor(x))).numpy()[:, 1]

    x = images.numpy()
    assert curves.deletion.shape == (3, 5)
    np.testing.assert_allclose(curves.deletion[:, 0], probability(x), atol=1e-6)
    np.testing.assert_allclose(curves.deletion[:, -1], probability(0 * x), atol=1e-6)
    np.testing.assert_allclose(curves.insertion[:, -1], probability(x), atol=1e-6)
    # Half of the pixels are gone, those with the greatest values.
    large = upsample(maps, (32, 32))
    kept = large < np.sort(large.reshape(3, -1), axis=1)[:, 512, None, None]
    np.testing.assert_allclose(curves.deletion[:, 2], probability(x * kept[:, None]), atol=1e-6)
    # A blurred patch is less bright, and the blur spreads by five pixels.
    assert (curves.insertion[:, 0] < curves.insertion[:, -1]).all()
    assert np.array_equal(curves.random_insertion[:, [0, -1]], curves.insertion[:, [0, -1]])
    areas = curves.areas()
    values = curves.deletion[0]
    assert areas["deletion"][0] == pytest.approx((values[1:4].sum() + (values[0] + values[4]) / 2) / 4)
    # An item is judged alike in every batch.
    alone = faithfulness(planted, images[1:2], maps[1:2], ones[:1], steps=4)
    np.testing.assert_allclose(alone.random_deletion, curves.random_deletion[1:2], atol=1e-6)
    doubled = faithfulness(planted, images, maps, ones, steps=4, probabilities=lambda logits: 2 * logits)
    np.testing.assert_allclose(doubled.deletion[:, 0], 2 * planted(images).numpy()[:, 1], atol=1e-5)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        faithfulness(planted, images, maps, ones, steps=0)


def test_equal_values_are_in_no_order(planted, images):
    # A map that says nothing is as good as chance, not as the order of the pixels.
    rows = np.arange(1024, 0, -1, dtype=np.float32).reshape(1, 32, 32).repeat(3, 0)
    flat = np.zeros((3, 4, 4), np.float32)
    found = [faithfulness(planted, images, maps, np.ones(3, int), steps=4).deletion for maps in (flat, rows)]
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_of_texts_words_alone_are_taken_away():
    # The logit is the share of words 7: their embedding is all there is.
    architecture = {"name": "GPT", "vocab_size": 12, "max_positions": 8, "embed_dim": 8, "depth": 1}
    head = {"name": "LinearHead", "num_classes": 2, "in_channels": 8, "pool": "mean"}
    model = Classifier({**architecture, "num_heads": 1}, head)
    seen = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    ids = np.array([[1, 7, 5, 8, 9, 2], [1, 6, 7, 2, 0, 0]])
    mask = (ids > 0).astype("int64")
    maps = np.array([[9, 4, 3, 2, 1, 9], [9, 1, 2, 9, 9, 9]], np.float32)
    inputs = [paddle.to_tensor(ids), paddle.to_tensor(mask)]
    options = {"steps": 2, "baseline": 3, "special_ids": {1, 2}}
    curves = faithfulness(model, inputs, maps, np.array([0, 1]), **options)
    hook.remove()
    insertion, deletion = np.stack(seen[:3]), np.stack(seen[6:9])
    assert insertion.tolist() == [
        [[1, 3, 3, 3, 3, 2], [1, 3, 3, 2, 0, 0]],
        [[1, 7, 5, 3, 3, 2], [1, 3, 7, 2, 0, 0]],
        ids.tolist(),
    ]
    assert deletion.tolist() == [
        ids.tolist(),
        [[1, 3, 3, 8, 9, 2], [1, 6, 3, 2, 0, 0]],
        [[1, 3, 3, 3, 3, 2], [1, 3, 3, 2, 0, 0]],
    ]
    np.testing.assert_allclose(curves.insertion[:, 0], curves.deletion[:, 2], atol=1e-6)
    with pytest.raises(ValueError, match="baseline"):
        faithfulness(model, inputs, maps, np.array([0, 1]))
