"""Every shipped config: it checks, it builds, its card is measured; and the doors that lead to it."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

from passl_sot import Model, create_model, list_models
from passl_sot.cli import list_command, train
from passl_sot.config import get_config, read_card
from passl_sot.modeling.backbones import build_backbone
from passl_sot.modeling.backbones.pit import PiT
from passl_sot.modeling.heads import build_head
from passl_sot.modeling.stats import model_stats
from passl_sot.zoo import find_config

ROOT = Path(__file__).parent.parent
TASKS = {"cola": 2, "rte": 2, "mnli": 3, "qnli": 2}  # and their classes
ALL = list_models()
TEXTS = [name for name in ALL if find_config(name).parent.name == "text"]
NAMES = [name for name in ALL if name not in TEXTS]  # of images


FAMILIES = {
    "sot": "tiny small base digits",
    "so_vit": "7 10 14 19",
    "t2t_vit": "7 10 12 14 19 24 14_384 14_sot t_14 t_19 t_24 14_cifar10 14_cifar100 19_cifar10 19_cifar100",
    "pit": "ti xs s b s_sot "
    + " ".join(
        f"{size}_{kind}" for size in ("ti", "xs", "s", "b") for kind in ("vanilla", "cutmix", "distilled")
    ),
    "stvit": "small base large small_384 base_384 large_384 small_sot",
    "deit": "tiny small base tiny_distilled small_distilled base_distilled tiny_sot small_sot base_sot "
    "base_384",
    "swin": "tiny small base tiny_sot base_sot",
}


SIZES = [f"{model}_{size}" for model in ("bert", "spanbert", "roberta") for size in ("base", "large")]
OF_TEXTS = ["gpt", *SIZES]


def test_names():
    assert {f"{model}{head}_{task}" for model in OF_TEXTS for head in ("", "_sot") for task in TASKS} == {
        *TEXTS
    }
    assert sorted(f"{family}_{size}" for family, sizes in FAMILIES.items() for size in sizes.split()) == NAMES
    assert list_models("pit_?_distilled") == ["pit_b_distilled", "pit_s_distilled"]
    sizes = ["deit_base_384", "stvit_base_384", "stvit_large_384", "stvit_small_384", "t2t_vit_14_384"]
    assert list_models("*_384") == sizes
    assert list_models("resnet*") == []
    assert list_models("sot_s*") == ["sot_small"]
    with pytest.raises(ValueError, match="did you mean sot_small"):
        find_config("sot_smal")


def test_list(capsys):
    """Cards are those of the resolved configs, where a variant inherits a part of its own too."""
    assert [read_card(name) for name in ALL] == [get_config(find_config(name)).meta for name in ALL]
    assert list_command(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ALL
    wanted = {"name": "pit_ti_cutmix", "params_m": 4.847, "gmacs": 0.699, "published_top1": 72.6}
    assert {**wanted, "published_score": None, "score": None, "weights": None} in rows
    (text,) = (row for row in rows if row["name"] == "bert_base_sot_cola")
    assert (text["published_top1"], text["published_score"], text["score"]) == (None, 58.03, "matthews")
    ways = {row["name"]: row["weights"] for row in rows}
    assert [ways[name] for name in ("deit_tiny", "stvit_base")] == ["by name", "by hand"]
    assert list_command(["swin", "sot_d*"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "model"
    assert [line.split()[0] for line in lines] == list_models("sot_d*") + list_models("swin*")
    assert lines[0].split() == ["sot_digits", "0.569", "0.032", "-", "-"]
    assert list_command(["gpt_mnli"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[3] == "82.1"
    assert list_command(["swin_tny"]) == 2
    assert capsys.readouterr().err == "error: no model matches 'swin_tny'; did you mean 'swin_tiny'?\n"


def test_list_starts_no_paddle():
    code = "import sys; from passl_sot.cli import list_command; list_command([])\n"
    code += "assert not {'paddle', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.fixture(scope="module")
def golden():
    """What writes the golden texts; `python tests/fixtures/golden_text.py` writes them anew."""
    path = ROOT / "tests" / "fixtures" / "golden_text.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


def alike(names, part):
    """Names by what `part` gives for their configs: lists of those that need only one trial."""
    groups = {}
    for name in names:
        key = json.dumps(part(get_config(find_config(name)).to_dict()), sort_keys=True)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def model_of(tree):
    """What decides about a model's parameters and sums: dropped paths don't."""
    tree["model"]["architecture"].pop("drop_path_rate", None)
    return tree["model"]


def shallow_model_of(tree):
    """The same but for depth and size of the images."""
    changed = {"depth", "depths", "img_size"}
    model = model_of(tree)
    return {**model, "architecture": {k: v for k, v in model["architecture"].items() if k not in changed}}


def recipe_of(tree):
    """All but the model and its card."""
    return {key: value for key, value in tree.items() if key not in ("model", "meta")}


def first(names):
    return names[0]


@pytest.fixture(scope="module", params=alike(NAMES, model_of), ids=first)
def built(request, golden, sampled_starts):
    """Names of configs with the same model, and that: built once, for tests that leave it as it is."""
    paddle.seed(golden.SEED)
    return request.param, create_model(request.param[0])


def test_card_is_measured(built):
    names, model = built
    stats = model_stats(model)
    for name in names:
        cfg = get_config(find_config(name))
        assert cfg.meta.params_m == round(stats.parameters / 1e6, 3)
        assert cfg.meta.gmacs == round(stats.macs / 1e9, 3)
        page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
        cells = [cell.strip() for cell in row.split("|")]
        numbers = [None if cell == "–" else float(cell.partition(" ")[0]) for cell in cells[2:6]]
        size = cfg.model.architecture.img_size
        assert numbers == [cfg.meta.params_m, cfg.meta.gmacs, size, cfg.meta.published_top1]


def test_parameters_against_the_golden_text(built, golden):
    """Shape, trainable or not, decayed or not, depth and start of every parameter."""
    names, model = built
    lines = golden.parameter_lines(model)
    for name in names:
        assert lines == golden.golden_file("parameters", name).read_text().splitlines(), name


def test_values_against_the_golden_text(golden):
    """Every value of the experiment, defaults of all classes included: what a change of either changes."""
    for name in (*NAMES, *golden.TEXTS):
        text = golden.golden_file("resolved", name).read_text(encoding="utf-8")
        assert golden.resolved_lines(name) == text.splitlines(), name


@pytest.fixture(scope="module")
def bodies(sampled_starts):
    """Parameters and multiply-adds of the backbones for texts, measured once, with few tokens and blocks.

    Blocks are alike, and so are the tokens' rows of a table.
    """
    found = {}
    for node in {json.dumps(get_config(find_config(name)).model.architecture) for name in TEXTS}:
        architecture = json.loads(node)
        few = {**architecture, "vocab_size": 100}
        one, two = (model_stats(build_backbone({**few, "depth": depth})) for depth in (1, 2))
        more = architecture["depth"] - 1
        rows = architecture["vocab_size"] - few["vocab_size"]
        parameters = one.parameters + more * (two.parameters - one.parameters) + rows * few["embed_dim"]
        found[node] = parameters, one.macs + more * (two.macs - one.macs)
    return found


@pytest.mark.parametrize("names", alike(TEXTS, model_of), ids=first)
def test_card_of_a_model_of_texts_is_measured(names, bodies, golden, sampled_starts):
    paddle.seed(golden.SEED)
    model = create_model(names[0], depth=1, vocab_size=100)
    inputs = [paddle.to_tensor(array) for array in model.backbone.example_inputs(2)]
    assert model(*inputs).shape == [2, model.num_classes]
    cfg = get_config(find_config(names[0]))
    parameters, macs = bodies[json.dumps(cfg.model.architecture)]
    head = model_stats(model.head, [1, 128, model.head.in_channels])
    for name in names:
        meta = read_card(name)
        assert meta["params_m"] == round((parameters + head.parameters) / 1e6, 3), name
        assert meta["gmacs"] == round((macs + head.macs) / 1e9, 3), name


def test_a_model_of_texts_counts_as_its_parts_and_starts_as_the_golden_text(golden, sampled_starts):
    for name in golden.TEXTS:
        paddle.seed(golden.SEED)
        model = create_model(name, **golden.SHALLOW_TEXT)
        lines = golden.parameter_lines(model)
        assert lines == golden.golden_file("parameters", name).read_text().splitlines(), name
    whole = model_stats(model)
    body = model_stats(model.backbone)
    head = model_stats(model.head, [1, 128, model.head.in_channels])
    assert whole.parameters == body.parameters + head.parameters
    assert whole.macs == body.macs + head.macs


def test_no_golden_text_is_left_over(golden):
    for kind in ("parameters", "resolved"):
        assert {path.stem for path in (golden.FOLDER / kind).iterdir()} == {*NAMES, *golden.TEXTS}


def test_a_wrong_start_has_another_text(golden):
    rng = np.random.default_rng(0)
    shape, fans = (64, 96), (64, 96)
    cut = rng.standard_normal(20_000)
    cut = cut[np.abs(cut) < 2][: 64 * 96].reshape(shape)
    starts = {
        "normal 0.02": 0.02 * rng.standard_normal(shape),
        "normal 0.02 cut at 2 deviations": 0.02 * cut,  # Paddle 2.6's TruncatedNormal
        "normal sqrt(2/96)": math.sqrt(2 / 96) * rng.standard_normal(shape),
        "uniform 1/sqrt(64)": rng.uniform(-1 / 8, 1 / 8, shape),
        "uniform sqrt(6/160)": rng.uniform(-1, 1, shape) * math.sqrt(6 / 160),  # Paddle's Linear
        "0": np.zeros(shape),
        "1e-06": np.full(shape, 1e-6, "float32"),
        "orthogonal, length sqrt(64)": 8 * np.linalg.qr(rng.standard_normal((96, 64)))[0].T,
    }
    for text, values in starts.items():
        assert golden.start_of(values, *fans) == text
    for wrong in (
        0.022 * rng.standard_normal(shape),
        0.002 + 0.02 * rng.standard_normal(shape),
        0.02 * math.sqrt(3) * rng.uniform(-1, 1, shape),
        0.02 * rng.laplace(size=shape) / math.sqrt(2),
        np.append(0.02 * rng.standard_normal(6143), -2.0),
    ):
        assert golden.start_of(wrong, *fans).startswith("mean ")
    for fitting in range(50):  # none that is right is misjudged, short ones included
        values = np.random.default_rng(fitting).standard_normal(14 + fitting)
        assert golden.start_of(values, 14, 14) == "normal 1"


SHALLOW = {
    "SoT": {"depth": 2},
    "T2TViT": {"depth": 2},
    "DeiT": {"depth": 2},
    "PiT": {"depths": [1, 1, 2]},
    "STViT": {"depths": [1, 1, 2, 1]},
    "Swin": {"depths": [1, 2, 2, 1]},
}


@pytest.fixture(scope="module", params=alike(NAMES, shallow_model_of), ids=first)
def shallow(request, tmp_path_factory, sampled_starts):
    """A config's model with few blocks and at 160x288; the widths are the config's own."""
    path = tmp_path_factory.mktemp("shallow") / "shallow.yaml"
    name = request.param[0]
    family = get_config(find_config(name)).model.architecture.name
    content = {"_base_": str(find_config(name)), "model": {"architecture": SHALLOW[family]}}
    path.write_text(yaml.safe_dump(content))
    return create_model(path, img_size=[160, 288])


def test_any_config_at_160x288(shallow):
    backbone = shallow.backbone
    x = paddle.randn([1, 3, 160, 288])
    with paddle.no_grad():
        tokens = shallow.forward_features(x)
        maps = backbone.forward_intermediates(x)
        assert shallow.forward_head(tokens).shape == [1, shallow.num_classes]
    rows, columns = backbone.grid_size
    assert tokens.shape == [1, backbone.num_prefix_tokens + rows * columns, backbone.num_features]
    assert len(maps) == len(backbone.feature_info)
    for info, feature_map in zip(backbone.feature_info, maps, strict=True):
        # PiT's patches are twice as wide as their stride, and none reaches beyond the image; others round up.
        less = 2 if isinstance(backbone, PiT) else 0
        sides = [160 / info["reduction"], 288 / info["reduction"]]
        assert feature_map.shape[:2] == [1, info["num_chs"]]
        for got, side in zip(feature_map.shape[2:], sides, strict=True):
            assert math.ceil(side) - less <= got <= math.ceil(side)
        assert np.isfinite(feature_map.numpy()).all()


def test_depths_grow_from_input_to_head(shallow):
    """For layer-wise decay: layers that come later in the forward pass have no smaller depth."""
    order = []
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, _x, name=name: order.append(name))
        for name, layer in shallow.named_sublayers()
        if layer.parameters(include_sublayers=False)
    ]
    with paddle.no_grad():
        shallow(paddle.randn([1, 3, 160, 288]))
    for hook in hooks:
        hook.remove()
    layers = dict(shallow.named_sublayers())
    depths = [
        shallow.layer_of(f"{name}.{key}")
        for name in dict.fromkeys(order)
        for key, _ in layers[name].named_parameters(include_sublayers=False)
    ]
    assert depths == sorted(depths)
    named = {key: shallow.layer_of(key) for key, _ in shallow.named_parameters()}
    assert set(named.values()) == set(range(shallow.num_layers + 1))
    assert {depth for key, depth in named.items() if key.startswith("head.")} == {shallow.num_layers}


def data_of(folder: Path) -> list[str]:
    """Overrides that put the three classes and the few images of `folder` in place of ImageNet."""
    return [
        f"dataloader.train.dataset.dataroot={folder / 'train'}",
        f"dataloader.val.dataset.dataroot={folder / 'val'}",
        "dataloader.train.sampler.batch_size=2",
        "dataloader.train.loader.num_workers=0",
        "dataloader.val.loader.num_workers=0",
        "model.head.num_classes=3",
    ]


@pytest.mark.slow
def test_every_recipe_under_dry_run(experiment, capsys):
    """The recipe as it is, on few blocks and small images; the models are tried above."""
    for name, *_ in alike(NAMES, recipe_of):
        family = get_config(find_config(name)).model.architecture.name
        blocks = [f"model.architecture.{key}={value}" for key, value in SHALLOW[family].items()]
        small = ["model.architecture.img_size=64", *blocks] if name != "sot_digits" else blocks
        assert train(["-c", name, "--dry-run", "-o", *data_of(experiment.parent), *small]) == 0
        text = capsys.readouterr().out
        lines = [line for line in text.splitlines() if "images/s" in line or "in order: 24" in line]
        assert len(lines) == 2, name
    assert not (ROOT / "output" / "sot_tiny").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t2t_vit_7", "deit_tiny_sot", "swin_tiny", "stvit_small"])
def test_dry_run_at_full_size(experiment, capsys, name):
    assert train(["-c", name, "--dry-run", "-o", *data_of(experiment.parent)]) == 0
    text = capsys.readouterr().out
    assert "GMACs" in text and "images/s per process" in text


@pytest.mark.slow
def test_dry_run_on_the_command_line(experiment, tool):
    done = tool("train", "-c", "pit_ti_distilled", "--dry-run", "-o", *data_of(experiment.parent))
    assert done.returncode == 0, done.stderr
    assert "GMACs" in done.stderr + done.stdout and "images/s per process" in done.stderr + done.stdout


def test_three_ways_to_the_same_model():
    path = ROOT / "configs" / "sot" / "sot_digits.yaml"
    models = []
    for build in (lambda: Model(path), lambda: create_model("sot_digits")):
        paddle.seed(5)
        models.append(build())
    paddle.seed(5)
    cfg = get_config(path)
    backbone, head = build_backbone(cfg.model.architecture), build_head(cfg.model.head)
    x = paddle.randn([2, 3, 32, 32])
    for layer in (*models, backbone, head):
        layer.eval()
    outputs = [models[0](x), models[1](x), head(backbone(x))]
    for output in outputs:
        assert output.shape == [2, 10]
        np.testing.assert_array_equal(output.numpy(), outputs[0].numpy())


def test_create_model_options(tmp_path):
    model = create_model("sot_digits", num_classes=4, img_size=[48, 64])
    assert model(paddle.randn([1, 3, 48, 64])).shape == [1, 4]
    path = tmp_path / "weights.pdparams"
    source = create_model("sot_digits")
    paddle.save(source.state_dict(), str(path))
    loaded = create_model("sot_digits", pretrained=path)
    for key, value in loaded.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), source.state_dict()[key].numpy())
    other = create_model("sot_digits", pretrained=path, num_classes=3)
    np.testing.assert_array_equal(other.backbone.cls_token.numpy(), source.backbone.cls_token.numpy())
    with pytest.raises(ValueError, match="doesn't fit the model"):
        create_model("sot_tiny", pretrained=path)
