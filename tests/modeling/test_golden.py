"""Models against numbers of the official code, through the converter."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl_sot.interop import convert_state_dict
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads import build_head
from passl_sot.modeling.stats import count_macs, count_parameters, model_stats
from passl_sot.nn.token_embed import TokenEmbed

_path = Path(__file__).parents[1] / "fixtures" / "golden" / "golden_rule.py"
_spec = importlib.util.spec_from_file_location("golden_rule", _path)
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

DTYPES = ("float32", "float64")
TINY = {
    "architecture": {"name": "SoT", "embed_dim": 240, "depth": 12, "num_heads": 4, "mlp_ratio": 2.5},
    "head": {
        "name": "SecondOrderHead",
        "num_classes": 1000,
        "in_channels": 240,
        "num_heads": 6,
        "wr_dim": 14,
        "normalization": {"name": "SvPN"},
    },
}
_, VARIANTS_NPZ = golden.load("sot_variants")
VARIANTS = {case["name"]: case for case in golden.load("sot_variants")[0]["cases"]}
NORMS = {"svPN": "SvPN", "sqrt_d": "SqrtD", "sqrt_t": "SqrtT", "ePN": "EPN", "LN": "LN"}


def loaded(model: paddle.nn.Layer, entries: list[dict], dtype: str, keep: dict | None = None) -> dict:
    """Fill the model; gives where each PyTorch parameter went."""
    model.to(dtype=dtype)
    model.eval()
    state = golden.state_dict(entries) | (keep or {})
    converted, report = convert_state_dict(model, state)
    assert report.ok, str(report)
    assert set(report.loaded) == set(model.state_dict())
    missing, unexpected = model.set_state_dict(converted)
    assert not missing and not unexpected
    names = {name: name for name in state} | dict(report.renamed)
    parameters = dict(model.named_parameters())
    return {name: parameters[target] for name, target in names.items() if target in parameters}


def check_output(got: paddle.Tensor, expected: np.ndarray, dtype: str) -> None:
    tolerance = 1e-8 if dtype == "float64" else 1e-5 * max(1.0, expected.std())
    assert np.abs(got.numpy() - expected).max() <= tolerance


def check_gradients(parameters: dict, names: list[str], norms: np.ndarray, dtype: str) -> None:
    double = dtype == "float64"
    floor = 1e-12 if double else 1e-6  # mathematically zero gradients are noise
    for name, expected in zip(names, norms, strict=True):
        grad = parameters[name].grad
        if np.isnan(expected):
            assert grad is None, name
            continue
        got = np.linalg.norm(grad.numpy().astype("float64"))
        start_vector = name.endswith("norm.weight") and parameters[name].shape[0] < 40
        # In float32 a ReLU whose input is nearly 0 may switch with the order of summation, which
        # differs between BLAS paths; in the convolutional embeddings that moves norms by 2e-4.
        switching = "tokens." in name and not double
        tolerance = 1e-6 if double else 1e-3 if start_vector or switching else 1e-4
        assert abs(got - expected) <= tolerance * expected + floor, (name, got, expected)


def suffix(dtype: str) -> str:
    return "_f64" if dtype == "float64" else ""


@pytest.fixture(scope="module")
def tiny() -> Classifier:
    return Classifier(**TINY)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sot_tiny(tiny, dtype):
    facts, arrays = golden.load("SoT_Tiny")
    seen = {}

    def watch(layer, name):
        return layer.register_forward_post_hook(lambda _l, _i, out: seen.__setitem__(name, out.numpy()))

    parts = dict(tiny.named_sublayers())
    names = {
        "visual_tokens.tokens.stem": "backbone.visual_tokens.tokens.stem",
        "visual_tokens.tokens.stage.0": "backbone.visual_tokens.tokens.stage.0",
        "visual_tokens.tokens.stage.1": "backbone.visual_tokens.tokens.stage.1",
        "visual_tokens": "backbone.visual_tokens",
        "blocks.0": "backbone.blocks.0",
        "norm": "backbone.norm",
        "classifier.representation.norm": "head.representation.norm",
    }
    hooks = [watch(parts[ours], theirs) for theirs, ours in names.items()]
    table = {"pos_embed": tiny.backbone.pos_embed.numpy()}
    kept = next(e for e in facts["entries"] if e["name"] == "pos_embed")
    assert abs(np.linalg.norm(table["pos_embed"].astype("float64")) - kept["keep_l2"]) < 1e-6
    tiny.clear_gradients()
    parameters = loaded(tiny, facts["entries"], dtype, table)
    images = paddle.to_tensor(golden.images(224)).astype(dtype)
    images.stop_gradient = False
    logits = tiny(images)
    loss = F.cross_entropy(logits, paddle.to_tensor(facts["labels"]))
    loss.backward()
    for hook in hooks:
        hook.remove()
    check_output(logits, arrays["logits" + suffix(dtype)], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + suffix(dtype)], dtype)
    assert abs(float(loss) - facts["loss_f64"]) < (1e-5 if dtype == "float32" else 1e-9)
    input_norm = np.linalg.norm(images.grad.numpy().astype("float64"))
    assert abs(input_norm / facts["input_grad"]["l2"] - 1) < 1e-4
    for name in names:
        want = facts["intermediates"][name]
        got = seen[name].astype("float64")
        assert list(got.shape) == want["shape"], name
        assert abs(np.linalg.norm(got) / want["l2"] - 1) < 1e-5, name
        np.testing.assert_allclose(got.reshape(-1)[:8], want["first8"], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "dim", "depth", "heads", "ratio", "wr_dim"),
    [("SoT_Small", 384, 14, 6, 3.5, 24), ("SoT_Base", 528, 24, 8, 3.0, 38)],
)
def test_sot_small_and_base(name, dim, depth, heads, ratio, wr_dim):
    facts, arrays = golden.load(name)
    arch = {"name": "SoT", "embed_dim": dim, "depth": depth, "num_heads": heads, "mlp_ratio": ratio}
    norm = {"name": "SvPN", "dropout": 0.5}
    head = {**TINY["head"], "in_channels": dim, "wr_dim": wr_dim, "normalization": norm}
    model = Classifier(architecture=arch, head=head)
    table = {"pos_embed": model.backbone.pos_embed.numpy()}
    parameters = loaded(model, facts["entries"], "float32", table)
    logits = model(paddle.to_tensor(golden.images(224)))
    F.cross_entropy(logits, paddle.to_tensor([1, 7])).backward()
    check_output(logits, arrays["logits_f64"], "float32")
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms_f64"], "float32")


STVIT_HEAD = {
    "name": "LinearHead",
    "num_classes": 1000,
    "in_channels": 1024,
    "pool": "mean",
    "num_prefix_tokens": 0,
}
SO_VIT_7 = {
    "architecture": {
        "name": "SoT",
        "token_embed": "ResNet",
        "embed_dim": 256,
        "depth": 7,
        "num_heads": 4,
        "mlp_ratio": 2.0,
    },
    "head": {
        "name": "CrossCovarianceHead",
        "num_classes": 1000,
        "in_channels": 256,
        "reduction": [48, 24],
        "normalization": {"name": "SvPN"},
    },
}


def check_whole(model: Classifier, name: str, dtype: str, names: dict[str, str], keep: dict) -> None:
    """Logits, loss, gradients, and outputs of the parts that ``names`` maps from their names to ours."""
    facts, arrays = golden.load(name)
    seen = {}
    parts = dict(model.named_sublayers())

    def watch(theirs: str, ours: str):
        def note(_layer, _inputs, out):
            seen[theirs] = out.numpy()

        return parts[ours].register_forward_post_hook(note)

    hooks = [watch(theirs, ours) for theirs, ours in names.items()]
    model.clear_gradients()
    parameters = loaded(model, facts["entries"], dtype, keep)
    images = paddle.to_tensor(golden.images(facts["img_size"])).astype(dtype)
    with paddle.no_grad():
        check_output(model(images), arrays["logits" + suffix(dtype)], dtype)  # another path on a CPU
    images.stop_gradient = False
    logits = model(images)
    loss = F.cross_entropy(logits, paddle.to_tensor(facts["labels"]))
    loss.backward()
    for hook in hooks:
        hook.remove()
    check_output(logits, arrays["logits" + suffix(dtype)], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + suffix(dtype)], dtype)
    assert abs(float(loss) - facts["loss_f64"]) < (1e-5 if dtype == "float32" else 1e-9)
    norm = np.linalg.norm(images.grad.numpy().astype("float64"))
    assert abs(norm / facts["input_grad"]["l2"] - 1) < 1e-4
    for theirs, got in seen.items():
        want = facts["intermediates"][theirs]
        got = got.astype("float64")
        if got.ndim == 3 and len(want["shape"]) == 4:  # tokens of ours, a map of theirs
            got = got.transpose(0, 2, 1).reshape(want["shape"])
        assert list(got.shape) == want["shape"], theirs
        assert abs(np.linalg.norm(got) / want["l2"] - 1) < 1e-5, theirs
        np.testing.assert_allclose(got.reshape(-1)[:8], want["first8"], rtol=1e-4, atol=2e-5, err_msg=theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["stvit_small", "stvit_small_240"])
def test_stvit_small(name, dtype):
    facts, _ = golden.load(name)
    model = Classifier({"name": "STViT", "img_size": facts["img_size"]}, STVIT_HEAD)
    kernels = np.eye(9, dtype="float32").reshape(9, 1, 3, 3)
    keep = {e["name"]: kernels for e in facts["entries"] if e["name"].endswith("fold.weights")}
    blocks = [f"layers.{i}.blocks.0" for i in range(3)]
    first = ["patch_embed", "layers.0.blocks.0.pos_embed", "layers.0.blocks.0.attn"]
    names = {part: f"backbone.{part}" for part in [*first, *blocks]}
    names |= {"layers.0": "backbone.layers.0.downsample", "swish": "backbone"}
    check_whole(model, name, dtype, names, keep)


def test_stvit_small_size():
    for name in ("stvit_small", "stvit_small_240"):
        facts, _ = golden.load(name)
        model = Classifier({"name": "STViT", "img_size": facts["img_size"]}, STVIT_HEAD)
        stats = model_stats(model)
        assert stats.parameters == facts["params_trainable"]
        kernels = 2 * 20 * 81  # theirs counts two frozen banks of nine 3×3 kernels per block
        assert stats.parameters + kernels == facts["params_total"]
        assert stats.layer_macs == facts["macs"]["linear_conv_module_macs"]
        rows = -(-facts["img_size"] // 32)
        spared = 0
        for blocks, dim, window in ((3, 64, 8), (5, 128, 4)):
            tokens = rows * rows
            # Three gatherings or scatterings of the features and one of the masses by convolution;
            # here the means of the windows are a product.
            spared += blocks * (81 * tokens * (3 * dim + 1) - dim * tokens * window**2)
        # The bias of the depth-wise convolution goes through fc2 by itself.
        merged = sum(blocks * 4 * dim**2 for blocks, dim in ((3, 64), (5, 128), (9, 320), (3, 512)))
        assert stats.macs == facts["macs"]["all_matmul_conv_macs"] - spared + merged


@pytest.mark.parametrize("dtype", DTYPES)
def test_so_vit_7(dtype):
    facts, _ = golden.load("So_vit_7")
    model = Classifier(**SO_VIT_7)
    keep = {"pos_embed": model.backbone.pos_embed.numpy()}
    own = ["visual_tokens.tokens.stem", "visual_tokens.tokens.stage.0", "visual_tokens", "blocks.0", "norm"]
    check_whole(model, "So_vit_7", dtype, {name: f"backbone.{name}" for name in own}, keep)
    stats = model_stats(model) if dtype == "float32" else None
    if stats:
        assert stats.parameters == facts["params_trainable"]
        assert stats.parameters + 197 * 256 == facts["params_total"]
        assert stats.layer_macs == facts["macs"]["linear_conv_module_macs"]
        # Our svPN makes three products of a·b where the official one makes five, and some of a or b more.
        spared = 2 * 48 * 24 + 2 * 48
        assert stats.macs == facts["macs"]["all_matmul_conv_macs"] - spared


def test_stvit_kernels_are_checked_and_dropped():
    facts, _ = golden.load("stvit_small")
    model = Classifier({"name": "STViT"}, STVIT_HEAD)
    kernels = np.eye(9, dtype="float32").reshape(9, 1, 3, 3)
    keep = {e["name"]: kernels for e in facts["entries"] if e["name"].endswith("fold.weights")}
    state = golden.state_dict(facts["entries"]) | keep
    _, report = convert_state_dict(model, state)
    assert report.ok and {name for name, _ in report.ignored} == set(keep)
    assert not any("fold" in name for name in model.state_dict())
    _, report = convert_state_dict(model, state | {"layers.0.blocks.0.attn.fold.weights": kernels + 0.1})
    assert not report.ok and "layers.0.blocks.0.attn.fold.weights" in str(report)


def test_sot_tiny_size(tiny):
    facts, _ = golden.load("SoT_Tiny")
    stats = model_stats(tiny)
    assert stats.parameters == facts["params_trainable"] == 7_983_550
    assert stats.parameters + 197 * 240 == facts["params_total"]  # theirs counts the position table
    assert stats.layer_macs == facts["macs"]["linear_conv_module_macs"]
    # Our svPN makes three products of d² per head where the official one makes five, and 3d more.
    spared = 6 * (2 * 14**2 + 3 * 14)
    assert stats.macs == facts["macs"]["all_matmul_conv_macs"] - spared


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "ratio", "wr_dim", "trainable", "with_table"),
    [(384, 14, 6, 3.5, 24, 27_010_856, 27_086_504), (528, 24, 8, 3.0, 38, 76_774_966, 76_878_982)],
)
def test_larger_sizes(dim, depth, heads, ratio, wr_dim, trainable, with_table):
    # Counted without building: two blocks' worth is enough to know a block.
    def count(blocks: int) -> int:
        arch = {"name": "SoT", "embed_dim": dim, "depth": blocks, "num_heads": heads, "mlp_ratio": ratio}
        head = {"name": "SecondOrderHead", "num_classes": 1000, "in_channels": dim, "wr_dim": wr_dim}
        return count_parameters(Classifier(architecture=arch, head=head))

    one, two = count(1), count(2)
    assert one + (depth - 1) * (two - one) == trainable
    assert trainable + 197 * dim == with_table


def embedding(kind: str, size: int, dim: int, large: bool = False) -> TokenEmbed:
    return TokenEmbed(kind, (size, size), embed_dim=dim, large_output=large)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["DenseNet", "DenseNet_large", "ResNet", "Naive_linear"])
def test_token_embedding(name, dtype):
    facts, arrays = golden.load(f"sotembed_{name}")
    how = facts["constructor"]
    model = embedding(how["type"], 224, how["embed_dim"], how["large_output"])
    assert count_parameters(model) == facts["params_trainable"]
    assert list(model.grid_size(224, 224)) == how["patches_resolution"]
    parameters = loaded(model, facts["entries"], dtype)
    out = model(paddle.to_tensor(golden.images(224)).astype(dtype))
    weight = paddle.to_tensor(golden.array(out.shape, 11)).astype(dtype)
    ((out * weight).sum() / out.size**0.5).backward()
    check_output(out[:, :: out.shape[1] // 14][:, :14], arrays["out_sub" + suffix(dtype)], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + suffix(dtype)], dtype)
    if dtype == "float32":
        assert count_macs(model, [1, 3, 224, 224]) == facts["macs"]["all_matmul_conv_macs"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("embed")])
def test_token_embedding_variant(name, dtype):
    case = VARIANTS[name]
    model = embedding(case["type"], case["img_size"], 96)
    assert count_parameters(model) == case["params"]
    parameters = loaded(model, case["entries"], dtype)
    batch = case["input_shape"][0]
    out = model(paddle.to_tensor(golden.images(case["img_size"], batch)).astype(dtype))
    assert list(out.shape) == case["out_shape"]
    weight = paddle.to_tensor(golden.array(out.shape, 11)).astype(dtype)
    ((out * weight).sum() / out.size**0.5).backward()
    end = suffix(dtype)
    check_output(out[:, ::14][:, :14], VARIANTS_NPZ[f"{name}/out0{end}"], dtype)
    check_gradients(parameters, case["grad_names"], VARIANTS_NPZ[f"{name}/grad_norms{end}"], dtype)


@pytest.mark.parametrize(
    ("kind", "parameters", "grid"),
    [
        ("DenseNet", 297_792, 14),
        ("ResNet", 448_384, 14),
        ("Inception", 157_600, 14),
        ("Non-local", 288_640, 28),
        ("Naive_linear", 295_296, 14),
    ],
)
def test_token_embedding_counts(kind, parameters, grid):
    model = embedding(kind, 224, 384)
    assert count_parameters(model) == parameters
    assert model.grid_size(224, 224) == (grid, grid)


def head_of(case: dict, in_channels: int, num_classes: int) -> paddle.nn.Layer:
    how = case.get("representationConfig", case)
    args = how.get("args", {})
    official = args.get("normalization", how.get("normalization"))
    cfg = {
        "name": "SecondOrderHead",
        "num_classes": num_classes,
        "in_channels": in_channels,
        "representation": how["type"] or "none",
        "fusion_type": how.get("fusion_type", how.get("fusion")) or "sum_fc",
        "num_prefix_tokens": 0 if case["cls"] == "OnlyVisualTokensClassifier" else 1,
        "num_heads": args.get("num_heads", 3),
        "wr_dim": args.get("wr_dim", args.get("qkv_dim", 6)),
        "qkv_bias": how.get("qkv_bias", False),
    }
    if how["type"] == "MGCrP":
        cfg["normalization"] = {"name": NORMS[official["type"]]} if official["type"] else None
        rename = {"alpha": "alpha", "iterNum": "num_iters", "svNum": "num_sv", "init_weight": "init_weight"}
        for theirs, ours in rename.items():
            if theirs in official:
                cfg["normalization"][ours] = official[theirs]
    return build_head(cfg)


def run_head(head, x: np.ndarray, dtype: str) -> tuple[list[paddle.Tensor], paddle.Tensor]:
    """Outputs as the official head gives them, with gradients of the loss; eval mode."""
    tokens = paddle.to_tensor(x).astype(dtype)
    tokens.stop_gradient = False
    if head.fusion_type == "sum_loss":
        outputs = list(head.forward_parts(tokens))
        both = head(tokens)
        np.testing.assert_allclose(both.numpy(), (outputs[0] + outputs[1]).numpy(), rtol=0, atol=0)
    else:
        outputs = [head(tokens)]
    sum(F.cross_entropy(out, paddle.to_tensor([1, 7])) for out in outputs).backward()
    return outputs, tokens


HEADS = sorted(path.stem for path in golden.FOLDER.glob("sothead_*.json"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HEADS)
def test_head(name, dtype):
    facts, arrays = golden.load(name)
    head = head_of(facts["constructor"], 240, 1000)
    assert count_parameters(head) == facts["params_trainable"]
    parameters = loaded(head, facts["entries"], dtype)
    outputs, tokens = run_head(head, golden.array([2, 197, 240], 7), dtype)
    keys = ["logits_cls", "logits_vis"] if len(outputs) == 2 else ["logits"]
    for out, key in zip(outputs, keys, strict=True):
        check_output(out, arrays[key + suffix(dtype)], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + suffix(dtype)], dtype)
    norm = np.linalg.norm(tokens.grad.numpy().astype("float64"))
    assert abs(norm / facts["input_grad"]["l2"] - 1) < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("embed")])
def test_head_variant(name, dtype):
    case = VARIANTS[name]
    head = head_of(case, 48, 12)
    assert count_parameters(head) == case["params"]
    keep = {"representation.norm.factor": np.array(6**-0.5, dtype="float32")} if "sqrt_t" in name else None
    parameters = loaded(head, case["entries"], dtype, keep)
    outputs, tokens = run_head(head, golden.array(case["input_shape"], 7), dtype)
    end = suffix(dtype)
    for i, out in enumerate(outputs):
        check_output(out, VARIANTS_NPZ[f"{name}/out{i}{end}"], dtype)
    check_gradients(parameters, case["grad_names"], VARIANTS_NPZ[f"{name}/grad_norms{end}"], dtype)
    norm = np.linalg.norm(tokens.grad.numpy().astype("float64"))
    expected = float(VARIANTS_NPZ[f"{name}/input_grad_norm{end}"])
    assert abs(norm / expected - 1) < (1e-4 if dtype == "float32" else 1e-8)


def t2t(width: int, **more) -> tuple[dict, dict]:
    head = {"name": "LinearHead", "num_classes": 1000, "in_channels": width}
    return {"name": "T2TViT", "embed_dim": width, **more}, head


def pit_ti(head: str, distilled: bool) -> tuple[dict, dict]:
    architecture = {"name": "PiT", "head_dim": 32, "num_heads": [2, 4, 8], "distilled": distilled}
    return architecture, {"name": head, "num_classes": 1000, "in_channels": 256}


WHOLE_MODELS = {
    "t2t_vit_7": t2t(256, depth=7, num_heads=4, mlp_ratio=2.0),
    "t2t_vit_t_14": t2t(384, depth=14, num_heads=6, tokens_type="transformer"),
    "pit_ti": pit_ti("LinearHead", False),
    "pit_ti_distilled": pit_ti("DistilledHead", True),
}


def watch_outputs(model: Classifier, names: list[str]) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    parts = dict(model.backbone.named_sublayers())
    for name in names:
        hook = lambda _l, _i, out, name=name: seen.__setitem__(name, out.numpy())  # noqa: E731
        parts[name].register_forward_post_hook(hook)
    return seen


def check_summary(got: np.ndarray, want: dict, name: str) -> None:
    got = got.astype("float64")
    assert list(got.shape) == want["shape"], name
    assert abs(np.linalg.norm(got) / want["l2"] - 1) < 1e-5, name
    np.testing.assert_allclose(got.reshape(-1)[:8], want["first8"], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_whole_model(name, dtype):
    facts, arrays = golden.load(name)
    model = Classifier(*WHOLE_MODELS[name])
    tables = [e["name"] for e in facts["entries"] if e["kind"] == "keep"]
    keep = {table: dict(model.backbone.named_buffers())[table].numpy() for table in tables}
    for entry in facts["entries"]:
        if entry["kind"] == "keep":
            norm = np.linalg.norm(keep[entry["name"]].astype("float64"))
            assert abs(norm - entry["keep_l2"]) < 1e-6
    parameters = loaded(model, facts["entries"], dtype, keep)
    parts = dict(model.backbone.named_sublayers())
    seen = watch_outputs(model, [part for part in facts["intermediates"] if part in parts])
    images = paddle.to_tensor(golden.images(224)).astype(dtype)
    images.stop_gradient = False
    tokens = model.forward_features(images)
    logits = model.forward_head(tokens)
    loss = F.cross_entropy(logits, paddle.to_tensor(facts["labels"]))
    loss.backward()
    end = suffix(dtype)
    check_output(logits, arrays["logits" + end], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + end], dtype)
    assert abs(float(loss) - facts["loss_f64"]) < (1e-5 if dtype == "float32" else 1e-9)
    input_norm = np.linalg.norm(images.grad.numpy().astype("float64"))
    assert abs(input_norm / facts["input_grad"]["l2"] - 1) < 1e-4
    if "distilled" in name:
        parts = model.head.forward_parts(tokens)
        for part, key in zip(parts, ("logits_head", "logits_head_dist"), strict=True):
            check_output(part, arrays[key + end], dtype)
    if name.startswith("pit"):
        # Officially the final norm and the poolings see class tokens and words apart.
        prefix = model.backbone.num_prefix_tokens
        seen["norm"] = seen["norm"][:, :prefix]
        first = model.backbone.forward_intermediates(images, [0])[0].numpy()
        check_summary(first, facts["intermediates"]["transformers.0[0]"], "transformers.0[0]")
    for part, got in seen.items():
        check_summary(got, facts["intermediates"][part], part)


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_whole_model_size(name):
    facts, _ = golden.load(name)
    model = Classifier(*WHOLE_MODELS[name])
    stats = model_stats(model)
    assert stats.parameters == facts["params_trainable"]
    # The official totals hold the frozen tables: the sinusoid, here no parameter, and the random features.
    frozen = sum(p.size for p in model.parameters() if p.stop_gradient)
    sinusoid = sum(math.prod(e["shape"]) for e in facts["entries"] if e["kind"] == "keep")
    assert stats.parameters + frozen + sinusoid == facts["params_total"]
    assert stats.macs == facts["macs"]["all_matmul_conv_macs"]
    assert stats.layer_macs == facts["macs"]["linear_conv_module_macs"]


def linear(width: int, **more) -> dict:
    return {"name": "LinearHead", "num_classes": 1000, "in_channels": width, **more}


BASELINES = {
    "deit_tiny_patch16_224": (
        {"name": "DeiT", "embed_dim": 192, "num_heads": 3},
        linear(192),
        ["patch_embed", "blocks.0", "norm"],
    ),
    "deit_tiny_distilled_patch16_224": (
        {"name": "DeiT", "embed_dim": 192, "num_heads": 3, "distilled": True},
        {"name": "DistilledHead", "num_classes": 1000, "in_channels": 192},
        ["patch_embed", "blocks.0", "norm"],
    ),
    "swin_tiny_patch4_window7_224": (
        {"name": "Swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
        linear(768, pool="mean", num_prefix_tokens=0),
        ["patch_embed", "layers.0.blocks.0", "layers.0.blocks.1", "layers.0", "layers.1.blocks.1", "norm"],
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BASELINES)
def test_baseline(name, dtype):
    architecture, head, watched = BASELINES[name]
    facts, arrays = golden.load(name)
    model = Classifier(architecture=architecture, head=head)
    if dtype == "float32":
        stats = model_stats(model)
        assert stats.parameters == facts["params_total"] == facts["params_trainable"]
        assert stats.macs == facts["macs"]["all_matmul_conv_macs"]
        assert stats.layer_macs == facts["macs"]["linear_conv_module_macs"]
    parameters = loaded(model, facts["entries"], dtype)
    seen = {}
    for part in watched:
        layer = dict(model.backbone.named_sublayers())[part]
        layer.register_forward_post_hook(lambda _l, _i, out, part=part: seen.__setitem__(part, out.numpy()))
    images = paddle.to_tensor(golden.images(224)).astype(dtype)
    images.stop_gradient = False
    logits = model(images)
    loss = F.cross_entropy(logits, paddle.to_tensor(facts["labels"]))
    loss.backward()
    check_output(logits, arrays["logits" + suffix(dtype)], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + suffix(dtype)], dtype)
    assert abs(float(loss) - facts["loss_f64"]) < (1e-5 if dtype == "float32" else 1e-9)
    input_norm = np.linalg.norm(images.grad.numpy().astype("float64"))
    assert abs(input_norm / facts["input_grad"]["l2"] - 1) < 1e-4
    for part in watched:
        want, got = facts["intermediates"][part], seen[part].astype("float64")
        assert list(got.shape) == want["shape"], part
        assert abs(np.linalg.norm(got) / want["l2"] - 1) < 1e-5, part
        np.testing.assert_allclose(got.reshape(-1)[:8], want["first8"], rtol=1e-4, atol=1e-5, err_msg=part)


@pytest.mark.parametrize("dtype", DTYPES)
def test_distilled_heads(dtype):
    name = "deit_tiny_distilled_patch16_224"
    facts, arrays = golden.load(name)
    model = Classifier(*BASELINES[name][:2])
    loaded(model, facts["entries"], dtype)
    tokens = model.forward_features(paddle.to_tensor(golden.images(224)).astype(dtype))
    for got, key in zip(model.head.forward_parts(tokens), ("logits_head", "logits_head_dist"), strict=True):
        check_output(got, arrays[key + suffix(dtype)], dtype)
    model.head.train()
    assert [list(part.shape) for part in model.head(tokens)] == [[2, 1000]] * 2


def test_swin_recognises_the_official_tables():
    model = Classifier(*BASELINES["swin_tiny_patch4_window7_224"][:2])
    facts, _ = golden.load("swin_tiny_patch4_window7_224")
    tables = dict(model.backbone.named_buffers())
    kept = {}
    for entry in facts["entries"]:
        if entry["kind"] == "keep":
            table = tables[entry["name"].replace(".attn_mask", ".attn.attn_mask")]
            assert list(table.shape) == entry["shape"]
            assert float(table.astype("float64").sum()) == entry["keep_sum"]
            kept[entry["name"]] = table.numpy()
    converted, report = convert_state_dict(model, golden.state_dict(facts["entries"]) | kept)
    assert report.ok and len(report.ignored) == len(kept) == 17
    assert set(converted) == set(model.state_dict())
