"""Weights from PaddleClas's own classes to ours and back: the same logits."""

import numpy as np
import paddle
import pytest

from passl_sot.config.yaml_text import dump_yaml
from passl_sot.modeling.schema import read_model
from ppcls_tools.convert_weights import main
from tests.clients.conftest import needs

K = 7
VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
MEAN = {"name": "LinearHead", "num_classes": K, "in_channels": 32, "pool": "mean", "num_prefix_tokens": 0}
HEAD = {"name": "LinearHead", "num_classes": K, "in_channels": 24}
THEIRS = {"class_num": K, "qkv_bias": True, "epsilon": 1e-6}
# PaddleClas's class, its arguments, our model; None where a name says all.
CASES = {
    "vit": ("ViT", VIT | THEIRS, {"architecture": {"name": "DeiT", **VIT}, "head": HEAD}),
    "distilled": (
        "Distilled",
        VIT | THEIRS,
        {
            "architecture": {"name": "DeiT", "distilled": True, **VIT},
            "head": {**HEAD, "name": "DistilledHead"},
        },
    ),
    "swin": (
        "Swin",
        SWIN | {"class_num": K},
        {"architecture": {"name": "Swin", **SWIN}, "head": MEAN},
    ),
    "named": ("DeiT_tiny_patch16_224", {"class_num": K}, None),
}


def which(case: str, folder) -> list[str]:
    model = CASES[case][2]
    if model is None:
        return ["--arch", CASES[case][0], "--num-classes", str(K)]
    config = folder / f"{case}.yaml"
    config.write_text(dump_yaml({"model": model}))
    return ["-c", str(config)]


@pytest.fixture(scope="module")
def both(client, tmp_path_factory):
    """Each case's images, logits of both sides' weights in our model, and PaddleClas's answers."""
    folder = tmp_path_factory.mktemp("weights")
    tasks, images, ours = {}, {}, {}
    for case, (kind, arguments, _) in CASES.items():
        side = arguments.get("img_size", 224)
        images[case] = np.random.default_rng(3).standard_normal((2, 3, side, side)).astype("f4")
        np.save(folder / f"{case}.npy", images[case])
        model = build(case, folder)
        for parameter in model.parameters():
            parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
        paddle.save(model.state_dict(), str(folder / f"{case}_ours.pdparams"))
        ours[case] = model(paddle.to_tensor(images[case])).numpy()
        source, theirs = (str(folder / f"{case}_{end}.pdparams") for end in ("ours", "as_theirs"))
        assert main([*which(case, folder), "--to-paddleclas", source, theirs]) == 0
        tasks[case] = {"class": kind, "arguments": arguments, "images": folder / f"{case}.npy"}
        tasks[case] |= {"ours": theirs, "theirs": folder / f"{case}_theirs.pdparams"}
    return folder, images, ours, client("paddleclas", "paddleclas_models.py", tasks, folder / "run")


def build(case: str, folder):
    arguments = which(case, folder)
    config = arguments[1]
    overrides = []
    if arguments[0] == "--arch":
        config, overrides = "deit_tiny", [f"model.head.num_classes={K}"]
    paddle.seed(2)
    model = read_model(config, overrides).build()
    model.eval()
    return model


@pytest.mark.slow
@needs("paddleclas")
@pytest.mark.parametrize("case", CASES)
def test_logits(both, case):
    folder, images, ours, answers = both
    assert answers[case]["missing"] == []
    np.testing.assert_allclose(
        answers[case]["ours"], ours[case], atol=1e-5 * max(1, ours[case].std()), rtol=0
    )
    dst = folder / f"{case}_as_ours.pdparams"
    assert main([*which(case, folder), str(folder / f"{case}_theirs.pdparams"), str(dst)]) == 0
    model = build(case, folder)
    assert model.set_state_dict(paddle.load(str(dst))) == ([], [])
    got = model(paddle.to_tensor(images[case])).numpy()
    wanted = np.array(answers[case]["theirs"])
    np.testing.assert_allclose(got, wanted, atol=1e-5 * max(1, wanted.std()), rtol=0)


def test_faults(tmp_path, capsys):
    config = which("vit", tmp_path)
    paddle.save({"head.weight": paddle.ones([24, K])}, str(tmp_path / "part.pdparams"))
    dst = tmp_path / "dst.pdparams"
    assert main([*config, str(tmp_path / "part.pdparams"), str(dst)]) == 1
    assert "missing" in capsys.readouterr().err
    assert main([*config, "--to-paddleclas", str(tmp_path / "part.pdparams"), str(dst)]) == 2
    assert "doesn't fit the model" in capsys.readouterr().err
    assert not dst.exists()
    own = tmp_path / "own.pdparams"
    paddle.save(build("vit", tmp_path).state_dict(), str(own))
    before = own.read_bytes()
    assert main([*config, "--to-paddleclas", str(own), str(own)]) == 2
    assert "is the source itself" in capsys.readouterr().err
    assert own.read_bytes() == before
    with pytest.raises(SystemExit):
        main([*config, "a.pdparams", "b.safetensors"])
