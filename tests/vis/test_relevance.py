"""Maps of relevance: of every backbone, head and part, against formulas written out, and what they leave."""

import copy

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.modeling.backbones import BACKBONES, build_backbone
from passl_sot.modeling.backbones.base import ImageBackbone
from passl_sot.modeling.classifier import Classifier
from passl_sot.vis.gradients import ExplainError
from passl_sot.vis.relevance import explain, methods_of, parts_of, upsample
from tests.modeling.test_models import OVER_IMAGES, SIZES, inputs, node

# Without svPN, whose start vector enlarges roundings.
SECOND = {"name": "SecondOrderHead", "num_heads": 2, "wr_dim": 4, "normalization": None}
IDS = [[5, 9, 8, 11, 7, 6], [5, 12, 6, 0, 0, 0]]  # two texts, padded by 0
CLS, SEP = 5, 6


def make(name: str, variant: int = 0, head: dict = SECOND, **more) -> Classifier:
    """A family's tiny model of 5 classes, at one of its variants, of no gradients and in evaluation mode."""
    architecture = node(name, variant, **more)
    backbone = build_backbone(architecture)
    own = {"num_classes": 5, "in_channels": backbone.num_features}
    own["num_prefix_tokens"] = backbone.num_prefix_tokens
    paddle.seed(1)
    model = Classifier(architecture, {**head, **own})
    for parameter in model.parameters():
        # Fresh weights are so small that all tokens count alike.
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
        parameter.stop_gradient = True
    model.eval()
    return model


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-3) -> bool:
    """Whether two maps are equal but for a part of the greatest value."""
    return a.shape == b.shape and np.abs(a - b).max() <= tolerance * np.abs(b).max()


# Variants in which other tokens stand before the words, and other windows.
VARIANTS = [("SoT", 1), ("DeiT", 1), ("PiT", 1), ("Swin", 1), ("STViT", 1)]


@pytest.mark.parametrize(("name", "variant"), [*[(name, 0) for name in BACKBONES.names()], *VARIANTS])
def test_every_backbone_has_maps_whose_items_are_independent(name, variant):
    model = make(name, variant)
    x = inputs(model.backbone, 3)
    images = isinstance(model.backbone, ImageBackbone)
    classes = [3, 0, 3]
    for method in methods_of(model):
        for part in parts_of(model)[: 1 if variant else None]:
            found = explain(model, x, classes, method=method, part=part)
            if images:
                assert found.maps.shape[1:] in model.backbone.grids
            else:
                assert found.maps.shape == tuple(x[0].shape)
            assert found.maps.dtype == np.float32
            assert np.isfinite(found.maps).all() and (found.maps >= 0).all()
            # What has a negative sum everywhere is an empty map.
            assert found.maps.max() > 0 or method.endswith("cam")
            first = explain(model, [tensor[:1] for tensor in x], 3, method=method, part=part)
            assert close(first.maps, found.maps[:1]), (method, part)
            np.testing.assert_allclose(first.probabilities, found.probabilities[:1], atol=1e-5)
    if variant == 0 and images:
        model.resize(SIZES[1])
        found = explain(model, inputs(model.backbone, 1))
        assert found.maps.shape[1:] in model.backbone.grids and found.maps.max() > 0


def test_methods_are_offered_where_they_mean_something():
    by_gradient = {"grad_cam", "hires_cam"}
    for name in OVER_IMAGES:
        plain = name in ("DeiT", "SoT", "T2TViT")
        assert set(methods_of(make(name))) == by_gradient | {"grad_sam"} | ({"rollout"} if plain else set())
    # Super tokens in all stages.
    assert set(methods_of(make("STViT", stoken_size=[4, 2, 2]))) == by_gradient
    assert set(methods_of(make("GPT"))) == {"gradient_input", "grad_sam", "rollout"}


def test_the_localizing_layer_is_of_its_stage():
    # Where words reach the class token it stands before the last attention; of others behind.
    for name in OVER_IMAGES:
        model = make(name)
        stage, layer = model.backbone.localizing_layer()
        seen = []
        hook = layer.register_forward_post_hook(lambda _, inputs, output: seen.append(output))  # noqa: B023
        model(*inputs(model.backbone))
        hook.remove()
        module = model.backbone.feature_info[stage]["module"]
        paths = {id(sublayer): path for path, sublayer in model.backbone.named_sublayers()}
        assert paths[id(layer)].startswith(module.partition(".blocks")[0]), name
        grid = model.backbone.grids[stage]
        assert model.backbone.as_map(stage, seen[0]).shape[2:] == list(grid)
        assert paths[id(layer)].endswith("norm1" if model.backbone.num_prefix_tokens else "norm2")


def written_out(model: Classifier, x: paddle.Tensor, chosen: int, part: str) -> dict[str, np.ndarray]:
    """Maps of a plain backbone by its layers' weights, Paddle's autograd, and NumPy."""
    backbone = model.backbone
    prefix = backbone.num_prefix_tokens
    tokens = backbone.embed(x)
    tokens.stop_gradient = False
    weights = []
    for block in backbone.blocks:
        normed = block.norm1(tokens)
        normed.retain_grads()
        heads = block.attn.num_heads
        qkv = block.attn.qkv(normed).reshape([len(x), -1, 3, heads, tokens.shape[-1] // heads])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4])
        a = F.softmax(q @ k.transpose([0, 1, 3, 2]) / q.shape[-1] ** 0.5, axis=-1)
        a.retain_grads()
        weights.append(a)
        tokens = tokens + block.attn.proj((a @ v).transpose([0, 2, 1, 3]).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
    tokens.retain_grads()
    last = backbone.norm(tokens)
    logits = model.head(last) if part == "all" else model.head.forward_part(part, last)
    logits[:, chosen].sum().backward()
    activation, grad = (t.numpy()[:, prefix:] for t in (normed, normed.grad))
    sam = sum(
        (a * np.maximum(g, 0)).mean(1).sum(1) for a, g in ((a.numpy(), a.grad.numpy()) for a in weights)
    )
    product = np.eye(tokens.shape[1])[None]
    for a in weights:
        product = (np.eye(tokens.shape[1]) + a.numpy().mean(1)) / 2 @ product
    start = np.linalg.norm(tokens.grad.numpy(), axis=-1)
    rollout = np.einsum("bn,bnm->bm", start / start.sum(1, keepdims=True), product)
    found = {
        "grad_cam": np.maximum(np.einsum("bc,bnc->bn", grad.mean(1), activation), 0),
        "hires_cam": np.maximum((grad * activation).sum(-1), 0),
        "grad_sam": sam[:, prefix:],
        "rollout": rollout[:, prefix:],
    }
    return {name: scores.reshape(len(x), *backbone.grid_size) for name, scores in found.items()}


@pytest.mark.parametrize("name", ["SoT", "DeiT"])
def test_plain_backbones_follow_the_formulas(name):
    model = make(name, img_size=[32, 24])
    (x,) = inputs(model.backbone)
    for part in ("all", "ClassT", "WordT"):
        expected = written_out(model, x, 2, part)
        assert set(expected) == set(methods_of(model))
        for method, maps in expected.items():
            assert maps.max() > 0
            assert close(explain(model, x, 2, method=method, part=part).maps, maps), (method, part)


@pytest.mark.parametrize(("name", "variant"), [("Swin", 1), ("Swin", 0), ("PiT", 0)])
def test_windows_and_stages_follow_the_formula(name, variant):
    # Swin's first variant has shifted windows of 4 among 8 x 8 tokens, the tiny one padded windows.
    model = make(name, variant)
    backbone = model.backbone
    (x,) = inputs(backbone)
    x.stop_gradient = False
    calls = []
    layers = backbone.attentions()
    for _, layer in layers:
        layer.recorder = lambda *call: calls.append(call)
    logits = model(x)
    grads = paddle.grad(logits[:, 2].sum(), [out for _, _, out in calls])
    expected = 0.0
    for (stage, layer), (qkv, bias, _), grad in zip(layers, calls, grads, strict=True):
        layer.recorder = None
        heads, width = layer.num_heads, layer.head_dim
        q, k, v = qkv.numpy().reshape(*qkv.shape[:2], 3, heads, width).transpose(2, 0, 3, 1, 4)
        products = q @ k.transpose(0, 1, 3, 2) / width**0.5
        if bias is not None:
            tiled = np.broadcast_to(bias.numpy(), (len(q) // len(x), heads, *products.shape[2:]))
            products = products + np.tile(tiled, (len(x), 1, 1, 1))
        a = np.exp(products - products.max(-1, keepdims=True))
        a /= a.sum(-1, keepdims=True)
        upstream = grad.numpy().reshape(*grad.shape[:2], heads, width).transpose(0, 2, 1, 3)
        scores = (a * np.maximum(upstream @ v.transpose(0, 1, 3, 2), 0)).mean(1).sum(1)
        rows, columns = backbone.grids[stage]
        if name == "Swin":
            side = layer.window
            high, wide = -(-rows // side), -(-columns // side)
            plane = scores.reshape(len(x), high, wide, side, side).transpose(0, 1, 3, 2, 4)
            plane = plane.reshape(len(x), high * side, wide * side)
            plane = np.roll(plane, (layer.shift, layer.shift), (1, 2))[:, :rows, :columns]
        else:
            plane = scores[:, backbone.num_prefix_tokens :].reshape(len(x), rows, columns)
        fine = backbone.grids[0]
        wider = np.stack([cv2.resize(p, fine[::-1], interpolation=cv2.INTER_LINEAR) for p in plane])
        expected = expected + wider * (rows * columns / (fine[0] * fine[1]))
    assert close(explain(model, x, 2, method="grad_sam").maps, expected)


def texts(model: Classifier, rows: slice, length: int = 6) -> list[paddle.Tensor]:
    ids = np.array(IDS)[rows, :length]
    mask = ids > 0
    # RoBERTa's padding has another number.
    ids = np.where(mask, ids, model.backbone.pad_id or 0)
    return [paddle.to_tensor(part.astype("int64")) for part in (ids, mask)]


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "GPT"])
def test_scores_of_texts(name):
    head = {"name": "LinearHead"} if name == "GPT" else {**SECOND, "mask_words": name == "BERT"}
    model = make(name, head=head)
    both = texts(model, slice(2))
    class_place = 5 if name == "GPT" else 0
    for method in methods_of(model):
        maps = explain(model, both, 1, method=method).maps
        assert (maps[1, 3:] == 0).all() and maps[0, class_place] == 0
        assert maps[0].max() > 0
        if head.get("mask_words", True):
            alone = explain(model, texts(model, slice(1, 2), 3), 1, method=method).maps
            assert close(maps[1:, :3], alone)
        specials = explain(model, both, 1, method=method, special_ids={CLS, SEP}).maps
        assert (specials[np.array(IDS) == SEP] == 0).all()
        assert np.array_equal(specials[0, 1:5], maps[0, 1:5])
        # With the padding computed, tokens come in another form.
        model.backbone.compute_padding ^= True
        if head.get("mask_words", True):
            assert close(explain(model, both, 1, method=method).maps, maps)
        model.backbone.compute_padding ^= True


@pytest.mark.parametrize("name", ["BERT", "GPT"])
def test_scores_of_texts_are_slopes(name):
    # What the logit changes by, per part by which a token's embedding grows.
    model = make(name, head={"name": "LinearHead"})
    x = texts(model, slice(1))
    scores = explain(model, x, 1, method="gradient_input").maps[0]
    step = 1e-2

    def logit(place: int, factor: float) -> float:
        factors = np.ones((6, 1), "float32")
        factors[place] = factor
        scale = paddle.to_tensor(factors)
        hook = model.backbone.embed_drop.register_forward_post_hook(lambda _, inputs, output: output * scale)
        value = float(model(*x)[0, 1])
        hook.remove()
        return value

    for place in (1, 2, 3, 4):
        slope = (logit(place, 1 + step) - logit(place, 1 - step)) / (2 * step)
        assert scores[place] == pytest.approx(max(slope, 0), rel=0.05, abs=0.01 * float(scores.max()))


def test_the_model_is_left_as_it_was():
    head = {"name": "CrossCovarianceHead", "reduction": [4, 3]}
    for name, batch in (("STViT", 2), ("BERT", 3)):
        model = make(name, head=head)
        for parameter in model.parameters():
            parameter.stop_gradient = False
        model.train()
        model.head.eval()
        model.set_recompute(True)
        frozen = model.parameters()[0]
        frozen.stop_gradient = True
        x = inputs(model.backbone, batch)
        outputs = model(*x)
        outputs.sum().backward()
        grads = {key: None if p.grad is None else p.grad.numpy() for key, p in model.named_parameters()}
        state = copy.deepcopy({key: value.numpy() for key, value in model.state_dict().items()})
        learning = [p.stop_gradient for p in model.parameters()]
        generator = paddle.get_rng_state()[0].__getstate__()
        for method in methods_of(model):
            with paddle.no_grad():  # as a server calls it
                assert explain(model, x, method=method).maps.max() > 0
            with pytest.raises(ValueError, match="class 9"):
                explain(model, x, 9, method=method)
        assert paddle.get_rng_state()[0].__getstate__() == generator
        assert model.training and model.backbone.training and not model.head.training
        assert model.backbone.recompute
        assert [p.stop_gradient for p in model.parameters()] == learning
        for key, p in model.named_parameters():
            assert np.array_equal(p.grad, grads[key]) if p.grad is not None else grads[key] is None
        for key, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[key])
        assert all(layer.recorder is None for _, layer in model.backbone.attentions())
        model(*x).sum().backward()  # no hook is left
        assert model.parameters()[-1].grad is not None


def test_classes_and_what_a_model_lacks():
    model = make("DeiT", head={"name": "LinearHead"})
    x = inputs(model.backbone, 3)
    found = explain(model, x)
    with paddle.no_grad():
        logits = model(*x).numpy()
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    np.testing.assert_array_equal(found.classes, logits.argmax(1))
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert np.array_equal(explain(model, x[0], found.classes).maps, found.maps)
    for wrong in ([0, 1], [0.0, 1.0, 2.0], "abc"):
        with pytest.raises(ValueError, match="classes are 3 whole numbers"):
            explain(model, x, wrong)
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=f"no class {wrong}: this model's are 0 to 4"):
            explain(model, x, wrong)
    with pytest.raises(ValueError, match=r"DeiT has no method 'lime'; it has: grad_sam, hires_cam, "):
        explain(model, x, method="lime")
    with pytest.raises(ValueError, match=r"LinearHead has no part 'ClassT'.*take all"):
        explain(model, x, part="ClassT")
    with pytest.raises(ValueError, match=r"has the parts ClassT, WordT, and no 'Words'"):
        explain(make("DeiT"), x, part="Words")
    with pytest.raises(ValueError, match=r"planned for images of 32x32.*resize"):
        explain(model, paddle.zeros([1, 3, 40, 40]))


def test_a_part_is_explained_by_its_own_logits():
    model = make("SoT")
    (x,) = inputs(model.backbone)
    whole, cls, words = (explain(model, x, 1, part=part).logits for part in parts_of(model))
    np.testing.assert_allclose(cls + words, whole, atol=1e-4)
    # A distilled model's answer is the mean of its two tokens' logits.
    distilled = make("DeiT", 1, head={"name": "DistilledHead"})
    with paddle.no_grad():
        expected = distilled(x).numpy()
    np.testing.assert_allclose(explain(distilled, x).logits, expected, atol=1e-5)


def test_maps_grow():
    maps = np.array([[[0, 1], [1, 0]]], np.float32)
    grown = upsample(maps, (4, 6))
    assert grown.shape == (1, 4, 6)
    assert grown[0, 0, 0] == 0 and grown[0, 0, 5] == 1 and grown[0, 3, 0] == 1
    assert grown.min() >= 0 and grown.max() <= 1


def test_gradients_that_are_not_finite_give_no_map():
    model = make("DeiT")
    norm = model.backbone.blocks[-1].norm1
    norm.weight.set_value(paddle.full_like(norm.weight, float("nan")))
    for method in methods_of(model):
        with pytest.raises(ExplainError, match="aren't finite, so there is no map"):
            explain(model, inputs(model.backbone), 0, method=method)
