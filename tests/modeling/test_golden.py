"""Models against numbers of the official code, through the converter."""

import functools
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
from passl_sot.modeling.stats import count_parameters, model_stats
from passl_sot.nn import initializers
from passl_sot.nn.token_embed import TokenEmbed

_path = Path(__file__).parents[1] / "fixtures" / "golden" / "golden_rule.py"
_spec = importlib.util.spec_from_file_location("golden_rule", _path)
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

# The weights are put in place by the rule.
pytestmark = pytest.mark.usefixtures("sampled_starts")
DTYPES = ("float32", "float64")
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


def classes(name: str, width: int, **more) -> dict:
    return {"name": name, "num_classes": 1000, "in_channels": width, **more}


def t2t(width: int, **more) -> tuple[dict, dict]:
    return {"name": "T2TViT", "embed_dim": width, **more}, classes("LinearHead", width)


def pit_ti(head: str, distilled: bool) -> tuple[dict, dict]:
    architecture = {"name": "PiT", "head_dim": 32, "num_heads": [2, 4, 8], "distilled": distilled}
    return architecture, classes(head, 256)


def deit_tiny(head: str, distilled: bool) -> tuple[dict, dict]:
    architecture = {"name": "DeiT", "embed_dim": 192, "num_heads": 3, "distilled": distilled}
    return architecture, classes(head, 192)


def words_alone(width: int) -> dict:
    return classes("LinearHead", width, pool="mean", num_prefix_tokens=0)


SOT_HEAD = {"num_heads": 6, "wr_dim": 14, "normalization": {"name": "SvPN"}}
SO_VIT = {"token_embed": "ResNet", "embed_dim": 256, "depth": 7, "num_heads": 4, "mlp_ratio": 2.0}
MODELS = {
    "SoT_Tiny": (
        {"name": "SoT", "embed_dim": 240, "depth": 12, "num_heads": 4, "mlp_ratio": 2.5},
        classes("SecondOrderHead", 240, **SOT_HEAD),
    ),
    "So_vit_7": (
        {"name": "SoT", **SO_VIT},
        classes("CrossCovarianceHead", 256, reduction=[48, 24], normalization={"name": "SvPN"}),
    ),
    "t2t_vit_7": t2t(256, depth=7, num_heads=4, mlp_ratio=2.0),
    "t2t_vit_t_14": t2t(384, depth=14, num_heads=6, tokens_type="transformer"),
    "pit_ti": pit_ti("LinearHead", False),
    "pit_ti_distilled": pit_ti("DistilledHead", True),
    "deit_tiny_patch16_224": deit_tiny("LinearHead", False),
    "deit_tiny_distilled_patch16_224": deit_tiny("DistilledHead", True),
    "swin_tiny_patch4_window7_224": (
        {"name": "Swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
        words_alone(768),
    ),
    "stvit_small": ({"name": "STViT"}, words_alone(1024)),
    "stvit_small_240": ({"name": "STViT", "img_size": 240}, words_alone(1024)),
}
# Outputs that are compared: official names, here those of the backbone where nothing else is said.
WATCHED = {
    "SoT": ["visual_tokens.tokens.stem", "visual_tokens.tokens.stage.0", "visual_tokens", "blocks.0", "norm"],
    "DeiT": ["patch_embed", "blocks.0", "norm"],
    "Swin": [
        "patch_embed",
        "layers.0.blocks.0",
        "layers.0.blocks.1",
        "layers.1.blocks.1",
        "norm",
    ],
    "STViT": ["patch_embed", *(f"layers.0.blocks.0{part}" for part in (".pos_embed", ".attn", ""))],
}
WATCHED["STViT"] += ["layers.1.blocks.0", "layers.2.blocks.0"]
RENAMED = {
    "SoT_Tiny": {
        "visual_tokens.tokens.stage.1": "backbone.visual_tokens.tokens.stage.1",
        "classifier.representation.norm": "head.representation.norm",
    }
}
RENAMED["stvit_small"] = {"layers.0": "backbone.layers.0.downsample", "swish": "backbone"}
RENAMED["stvit_small_240"] = RENAMED["stvit_small"]
RENAMED["swin_tiny_patch4_window7_224"] = {"layers.0": "backbone.layers.0.downsample"}
# Multiply-adds that the official code makes and this one does not.
SPARED = {
    # Our svPN makes two products of d² per head, and a third without sums, where the official one makes five,
    # and 3d more.
    "SoT_Tiny": 6 * (3 * 14**2 + 3 * 14),
    # The same of a·b, and some of a or b more.
    "So_vit_7": 3 * 48 * 24 + 2 * 48,
}


@functools.lru_cache(maxsize=1)
def built(name: str) -> Classifier:
    """A model, kept until another is asked for: the tests of one stand next to each other."""
    return Classifier(*MODELS[name])


@pytest.fixture(autouse=True)
def no_draws(monkeypatch):
    """Weights stay as they were made: all are loaded, and drawing millions takes most of a build."""
    monkeypatch.setattr(initializers, "trunc_normal_", lambda parameter, *_, **__: parameter)


def tables_of(model: Classifier, entries: list[dict]) -> dict[str, np.ndarray]:
    """The entries that the models compute; compared with the official ones by a sum."""
    buffers = dict(model.backbone.named_buffers())
    kept = {}
    for entry in entries:
        name = entry["name"]
        if entry["kind"] != "keep" or name.endswith("num_batches_tracked"):
            continue
        if name.endswith("fold.weights"):  # STViT's kernels, here index tables
            kept[name] = np.eye(9, dtype="float32").reshape(9, 1, 3, 3)
            continue
        kept[name] = buffers[name.replace(".attn_mask", ".attn.attn_mask")].numpy()
        exact = kept[name].astype("float64")
        assert list(exact.shape) == entry["shape"]
        if name == "pos_embed":
            assert abs(np.linalg.norm(exact) - entry["keep_l2"]) < 1e-6
        else:
            assert exact.sum() == entry["keep_sum"]
    return kept


def check_size(model: Classifier, name: str, facts: dict) -> None:
    stats = model_stats(model)
    assert stats.parameters == facts["params_trainable"]
    # The official totals hold frozen tables: sinusoids, random features, and STViT's two banks of nine
    # 3×3 kernels per block.
    frozen = sum(p.size for key, p in model.named_parameters() if key.endswith(".w") and p.stop_gradient)
    frozen += sum(table.size for key, table in model.named_buffers() if key.endswith("pos_embed"))
    if name.startswith("stvit"):
        frozen = 2 * 20 * 81
    assert stats.parameters + frozen == facts["params_total"]
    assert stats.layer_macs == facts["macs"]["linear_conv_module_macs"]
    spared = spared_by_stvit(facts) if name.startswith("stvit") else SPARED.get(name, 0)
    assert stats.macs == facts["macs"]["all_matmul_conv_macs"] - spared


def spared_by_stvit(facts: dict) -> int:
    rows = -(-facts["img_size"] // 32)
    spared = 0
    for blocks, dim, window in ((3, 64, 8), (5, 128, 4)):
        tokens = rows * rows
        # Three gatherings or scatterings of the features and one of the masses by convolution;
        # here the means of the windows are a product.
        spared += blocks * (81 * tokens * (3 * dim + 1) - dim * tokens * window**2)
    return spared


def check_summary(got: np.ndarray, want: dict, name: str, atol: float) -> None:
    got = got.astype("float64")
    if got.ndim == 3 and len(want["shape"]) == 4:  # tokens of ours, a map of theirs
        got = got.transpose(0, 2, 1).reshape(want["shape"])
    assert list(got.shape) == want["shape"], name
    assert abs(np.linalg.norm(got) / want["l2"] - 1) < 1e-5, name
    np.testing.assert_allclose(got.reshape(-1)[:8], want["first8"], rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_whole_model(name, dtype):
    """Logits, loss, gradients, outputs inside, and the size."""
    facts, arrays = golden.load(name)
    model = built(name)
    family = MODELS[name][0]["name"]
    kept = tables_of(model, facts["entries"])
    if dtype == "float32":
        check_size(model, name, facts)
    model.clear_gradients()
    parameters = loaded(model, facts["entries"], dtype, kept)
    parts = dict(model.named_sublayers())
    official = facts["intermediates"]
    watched = WATCHED.get(family, [part for part in official if f"backbone.{part}" in parts])
    names = {part: f"backbone.{part}" for part in watched} | RENAMED.get(name, {})
    seen = {}

    def watch(theirs: str, ours: str):
        def note(_layer, _inputs, out):
            seen[theirs] = out.numpy()

        return parts[ours].register_forward_post_hook(note)

    hooks = [watch(theirs, ours) for theirs, ours in names.items()]
    images = paddle.to_tensor(golden.images(facts.get("img_size", 224))).astype(dtype)
    end = suffix(dtype)
    convolutional = name in ("So_vit_7", "stvit_small", "stvit_small_240")
    if convolutional:
        with paddle.no_grad():
            check_output(model(images), arrays["logits" + end], dtype)  # another path on a CPU
    images.stop_gradient = False
    tokens = model.forward_features(images)
    logits = model.forward_head(tokens)
    loss = F.cross_entropy(logits, paddle.to_tensor(facts["labels"]))
    loss.backward()
    for hook in hooks:
        hook.remove()
    check_output(logits, arrays["logits" + end], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + end], dtype)
    assert abs(float(loss) - facts["loss_f64"]) < (1e-5 if dtype == "float32" else 1e-9)
    input_norm = np.linalg.norm(images.grad.numpy().astype("float64"))
    assert abs(input_norm / facts["input_grad"]["l2"] - 1) < 1e-4
    if "distilled" in name:
        cls_logits, dist_logits = model.head.forward_parts(tokens)
        check_output(cls_logits, arrays["logits_head" + end], dtype)
        check_output(dist_logits, arrays["logits_head_dist" + end], dtype)
        model.head.train()
        assert [list(part.shape) for part in model.head(tokens)] == [[2, 1000]] * 2
    if family == "PiT":
        # Officially the final norm and the poolings see class tokens and words apart.
        seen["norm"] = seen["norm"][:, : model.backbone.num_prefix_tokens]
        seen["transformers.0[0]"] = model.backbone.forward_intermediates(images, [0])[0].numpy()
    for part, got in seen.items():
        check_summary(got, official[part], part, 2e-5 if convolutional else 1e-5)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "stvit_small"])
def test_official_tables_are_checked_and_dropped(name):
    facts, _ = golden.load(name)
    model = built(name).to(dtype="float32")
    kept = tables_of(model, facts["entries"])
    state = golden.state_dict(facts["entries"]) | kept
    converted, report = convert_state_dict(model, state)
    assert report.ok and {name for name, _ in report.ignored} == set(kept)
    assert set(converted) == set(model.state_dict()) and not set(converted) & {f"backbone.{k}" for k in kept}
    table = next(iter(kept))
    _, report = convert_state_dict(model, state | {table: kept[table] + np.float32(0.1)})
    assert not report.ok and table in str(report)


@pytest.mark.parametrize(
    ("name", "dim", "depth", "heads", "ratio", "wr_dim"),
    [("SoT_Small", 384, 14, 6, 3.5, 24), ("SoT_Base", 528, 24, 8, 3.0, 38)],
)
def test_sot_small_and_base(name, dim, depth, heads, ratio, wr_dim):
    facts, arrays = golden.load(name)
    arch = {"name": "SoT", "embed_dim": dim, "depth": depth, "num_heads": heads, "mlp_ratio": ratio}
    norm = {"name": "SvPN", "dropout": 0.5}
    head = classes("SecondOrderHead", dim, **{**SOT_HEAD, "wr_dim": wr_dim, "normalization": norm})
    model = Classifier(architecture=arch, head=head)
    table = {"pos_embed": model.backbone.pos_embed.numpy()}
    parameters = loaded(model, facts["entries"], "float32", table)
    logits = model(paddle.to_tensor(golden.images(224)))
    F.cross_entropy(logits, paddle.to_tensor([1, 7])).backward()
    check_output(logits, arrays["logits_f64"], "float32")
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms_f64"], "float32")


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


EMBEDDINGS = sorted(path.stem for path in golden.FOLDER.glob("sotembed_*.json"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_token_embedding(name, dtype):
    facts, arrays = golden.load(name)
    how = facts["constructor"]
    model = embedding(how["type"], 224, how["embed_dim"], how["large_output"])
    assert count_parameters(model) == facts["params_trainable"]
    # What the official module declares holds for those that were published.
    assert math.prod(model.grid_size(224, 224)) == facts["output"]["shape"][1]
    parameters = loaded(model, facts["entries"], dtype)
    out = model(paddle.to_tensor(golden.images(224)).astype(dtype))
    weight = paddle.to_tensor(golden.array(out.shape, 11)).astype(dtype)
    ((out * weight).sum() / out.size**0.5).backward()
    check_output(out[:, :: out.shape[1] // 14][:, :14], arrays["out_sub" + suffix(dtype)], dtype)
    check_gradients(parameters, facts["grad_names"], arrays["grad_norms" + suffix(dtype)], dtype)
    if dtype == "float32":
        assert model_stats(model, [1, 3, 224, 224]).macs == facts["macs"]["all_matmul_conv_macs"]


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
