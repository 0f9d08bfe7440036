"""The command, from a checkpoint file to weights and card."""

import json
import os
import pickle

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl_sot import create_model
from passl_sot.cli import convert
from passl_sot.interop import export_state_dict
from passl_sot.weights.checkpoint import read_weights, write_checkpoint
from passl_sot.weights.find import find_state_dict, read_source

SMALL = """
model:
  architecture: {name: SoT, img_size: 32, embed_dim: 24, depth: 2, num_heads: 2, token_dim: 8}
  head: {name: SecondOrderHead, num_classes: 5, in_channels: 24, num_heads: 2, wr_dim: 4}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def model(config):
    paddle.seed(1)
    model = create_model(str(config))
    model.to(dtype="float32")
    return model


@pytest.fixture
def official(model) -> dict[str, np.ndarray]:
    return export_state_dict(model, {name: value.numpy() for name, value in model.state_dict().items()})


@pytest.fixture
def fixture(tmp_path, model):
    """Input and logits of the model, as --verify takes them."""
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), "f4")
    with paddle.no_grad():
        logits = model(paddle.to_tensor(x)).numpy()
    path = tmp_path / "fixture.npz"
    np.savez(path, input=x, logits=logits)
    return path


def tensors(writer, arrays, prefix="", factor=1):
    return {f"{prefix}{name}": writer.Tensor.of(value * factor) for name, value in arrays.items()}


def listing(folder) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("fmt", ["zip", "legacy"])
def test_checkpoint_with_ema_and_ddp_prefixes(
    writer, tmp_path, config, model, official, fixture, fmt, capsys
):
    content = {
        "state_dict": tensors(writer, official, "module.", 2),
        "state_dict_ema": tensors(writer, official, "module."),
        "epoch": 3,
    }
    write = writer.write_zip if fmt == "zip" else writer.write_legacy
    src, dst = write(tmp_path / "a.pth.tar", content), tmp_path / "out" / "a.pdparams"
    arguments = ["--config", str(config), "--src", str(src), "--dst", str(dst), "--license", "MIT"]
    assert convert([*arguments, "--verify", str(fixture)]) == 0
    said = capsys.readouterr().out
    assert "taken: state_dict_ema; also there: state_dict (choose with --key)" in said
    assert "all keys accounted for (official naming)" in said
    assert "largest difference" in said and "tolerance 1.0e-05" in said
    assert listing(dst.parent) == ["a.json", "a.pdparams"]
    loaded = paddle.load(str(dst))
    arrays, meta = read_weights(dst)
    assert meta == {} and loaded.keys() == arrays.keys()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(arrays[name], value.numpy(), err_msg=name)
        np.testing.assert_array_equal(loaded[name].numpy(), value.numpy(), err_msg=name)
    card = json.loads(dst.with_suffix(".json").read_text())
    assert card["source"]["file"] == "a.pth.tar" and card["source"]["key"] == "state_dict_ema"
    assert len(card["source"]["sha256"]) == len(card["key_map_sha256"]) == 64
    assert (card["license"], card["config"], card["naming"]) == ("MIT", "small", "official")
    assert card["verified"]["logits"]["largest_difference"] < 1e-5
    assert card["model"]["architecture"]["embed_dim"] == 24 and card["versions"]["paddle"]
    # The other one has other numbers: conversion finds the table, which is not to be doubled.
    assert convert([*arguments[:-2], "--key", "state_dict"]) == 1
    assert "a fixed table that differs" in capsys.readouterr().err


def test_wrong_logits_leave_nothing(writer, tmp_path, config, official, fixture, capsys):
    """A square Linear that was not turned has the right shape: only the numbers tell."""
    key = "blocks.1.attn.proj.weight"
    assert official[key].shape == (24, 24)
    src = writer.write_zip(tmp_path / "a.pth", tensors(writer, {**official, key: official[key].T.copy()}))
    dst = tmp_path / "out" / "a.pdparams"
    arguments = ["--config", str(config), "--src", str(src), "--dst", str(dst), "--verify", str(fixture)]
    assert convert(arguments) == 1
    assert "does not give the logits of" in capsys.readouterr().err
    assert not dst.parent.exists()
    dst.parent.mkdir()
    dst.write_text("older")
    assert convert(arguments) == 1
    assert dst.read_text() == "older" and listing(dst.parent) == ["a.pdparams"]
    assert convert([*arguments, "--tolerance", "10"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"nothing": 1}, "needs the arrays input and logits"),
        (lambda a: {**a, "logits": a["logits"][:, :2]}, "logits are [2, 2], the model gives [2, 5]"),
        (lambda a: {**a, "input": a["input"][..., :16]}, "is for another model"),
        (lambda a: {**a, "logits": a["logits"] * np.nan}, "does not give the logits"),
        (lambda a: {"input": a["input"], "logits_f64": a["logits"] + 1e-6}, "does not give the logits_f64"),
        (None, "is damaged or holds Python objects"),
    ],
)
def test_odd_fixtures(writer, tmp_path, config, official, fixture, capsys, change, message):
    src = writer.write_zip(tmp_path / "a.pth", tensors(writer, official))
    if change is None:
        fixture.write_bytes(b"x")
    else:
        np.savez(fixture, **change(dict(np.load(fixture))))
    dst = tmp_path / "a.pdparams"
    arguments = ["--config", str(config), "--src", str(src), "--dst", str(dst), "--verify", str(fixture)]
    assert convert(arguments) in (1, 2)
    assert message in capsys.readouterr().err
    assert not dst.exists() and not dst.with_suffix(".json").exists()


def test_other_classes_and_sizes(writer, tmp_path, config, official, capsys):
    src = writer.write_zip(tmp_path / "a.pth", tensors(writer, official))
    dst = tmp_path / "a.pdparams"
    arguments = ["--config", str(config), "--src", str(src), "--dst", str(dst)]
    assert convert([*arguments, "-o", "model.head.num_classes=7"]) == 1
    assert "another number of classes? 5 there, 7 here" in capsys.readouterr().err and not dst.exists()
    size = ["-o", "model.architecture.img_size=[48,64]"]
    assert convert([*arguments, "--num-classes", "7", *size]) == 0
    assert "4 left new" in capsys.readouterr().out
    assert len(json.loads(dst.with_suffix(".json").read_text())["left_new"]) == 4
    loaded = create_model(str(config), num_classes=7, img_size=[48, 64], pretrained=dst)
    assert loaded(paddle.zeros([1, 3, 48, 64])).shape == [1, 7]
    with pytest.raises(SystemExit):
        convert([*arguments, "--num-classes", "0"])


def test_16_bits_that_numpy_lacks(writer, tmp_path, config, official):
    cut = {name: (value.astype("f4").view("u4") >> 16).astype("u2") for name, value in official.items()}
    src = writer.write_safetensors(tmp_path / "a.safetensors", cut, "BF16")
    dst = tmp_path / "a.pdparams"
    assert convert(["--config", str(config), "--src", str(src), "--dst", str(dst)]) == 0
    stem = "visual_tokens.tokens.stem.0.weight"
    wanted = (cut[stem].astype("u4") << 16).view("f4")
    np.testing.assert_array_equal(read_weights(dst)[0][f"backbone.{stem}"], wanted)
    # A table that was learned from zeros, or is another one, is so in 16 bits too.
    for other in (np.zeros_like, lambda bits: bits[:, ::-1].copy()):
        changed = {**cut, "pos_embed": other(cut["pos_embed"])}
        src = writer.write_safetensors(tmp_path / "a.safetensors", changed, "BF16")
        assert convert(["--config", str(config), "--src", str(src), "--dst", str(dst)]) == 1


def test_other_channels(writer, tmp_path, config, official, capsys):
    src = writer.write_zip(tmp_path / "a.pth", tensors(writer, official))
    dst = tmp_path / "a.pdparams"
    arguments = ["--config", str(config), "--src", str(src), "--dst", str(dst)]
    assert convert([*arguments, "--num-classes", "7", "-o", "model.architecture.in_chans=1"]) == 0
    said = capsys.readouterr().out
    stem = "visual_tokens.tokens.stem.0.weight"
    assert f"channels    {stem} [8, 3, 3, 3] -> [8, 1, 3, 3]" in said
    assert said.count("left new    head.") == 4
    card = json.loads(dst.with_suffix(".json").read_text())
    assert card["channels"] == [[stem, [8, 3, 3, 3], [8, 1, 3, 3]]] and len(card["left_new"]) == 4
    arrays, _ = read_weights(dst)
    summed = official[stem].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(arrays[f"backbone.{stem}"], summed, rtol=1e-5, atol=1e-6)


class Call:
    """What a hostile file hides: its own command, run by an ordinary unpickling."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def bad_files(writer, folder, official) -> dict[str, tuple[str, str]]:
    """Files that must be refused: name to what the error says."""
    good = {"state_dict": tensors(writer, official), "epoch": 3}
    hostile = {**good, "args": Call(folder / "ran")}
    for name, content in (("good", good), ("hostile", hostile)):
        writer.write_zip(folder / f"{name}.pth", content)
        writer.write_legacy(folder / f"{name}_old.pth", content)
    save_file(official, folder / "good.safetensors")
    (folder / "hostile.pdparams").write_bytes(pickle.dumps(hostile["args"], protocol=2))
    (folder / "hostile_raw.pth").write_bytes(pickle.dumps(hostile["args"], protocol=2))
    np.savez(folder / "hostile.npz", w=np.array([Call(folder / "ran")], dtype=object))
    hidden = ("hostile.pth", "hostile_old.pth", "hostile.pdparams", "hostile_raw.pth")
    found = dict.fromkeys(hidden, "asks for posix.system")
    found["hostile.npz"] = "Python objects, refused"
    for name in ("good.pth", "good_old.pth", "good.safetensors"):
        whole = (folder / name).read_bytes()
        for share in (0, 0.0005, 0.1, 0.5, 0.9, 0.999):
            cut = f"cut_{share}_{name}"
            (folder / cut).write_bytes(whole[: int(share * len(whole))])
            found[cut] = cut  # every error names its file
    (folder / "text.pth").write_text("see releases")
    return found | {"text.pth": "is damaged, or no .pth"}


def test_bad_files_leave_nothing(writer, tmp_path, config, official, capsys):
    files = bad_files(writer, tmp_path, official)
    out = tmp_path / "out"
    arguments = ["--config", str(config), "--dst", str(out / "a.pdparams")]
    before = listing(tmp_path)
    for name, message in files.items():
        assert convert([*arguments, "--src", str(tmp_path / name)]) == 2, name
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and message in said.err and "Traceback" not in said.err, name
    assert listing(tmp_path) == before  # neither an output folder nor what the hostile ones would have made
    out.mkdir()
    for name in ("a.pdparams", "a.json"):
        (out / name).write_text("older")
    for name in files:
        assert convert([*arguments, "--src", str(tmp_path / name)]) == 2
    assert listing(out) == ["a.json", "a.pdparams"]
    assert all((out / name).read_text() == "older" for name in listing(out))


@pytest.mark.parametrize("name", ["DeiT", "T2TViT"])
def test_weights_of_another_family_leave_nothing(writer, tmp_path, config, official, name, capsys):
    src = writer.write_zip(tmp_path / "a.pth", {"state_dict": tensors(writer, official)})
    dst = tmp_path / "out" / "a.pdparams"
    other = SMALL.replace("name: SoT", f"name: {name}").replace("depth: 2", "depth: 12")
    if name == "DeiT":
        other = other.replace(", token_dim: 8", "")
    config.write_text(other)
    assert convert(["--config", str(config), "--src", str(src), "--dst", str(dst)]) == 1
    said = capsys.readouterr().err
    assert "these are weights of another model" in said and len(said.splitlines()) <= 20
    assert listing(tmp_path) == ["a.pth", "small.yaml"]


def test_there_and_back(writer, tmp_path, config, official, fixture):
    src = writer.write_zip(tmp_path / "a.pth", tensors(writer, official))
    paddles, back = tmp_path / "a.pdparams", tmp_path / "back" / "a.safetensors"
    assert convert(["--config", str(config), "--src", str(src), "--dst", str(paddles)]) == 0
    arguments = ["--config", str(config), "--dst", str(back), "--to-torch", "--verify", str(fixture)]
    assert convert([*arguments, "--src", str(paddles)]) == 0
    got = find_state_dict(read_source(back)).arrays
    assert got.keys() == official.keys()
    for name, value in official.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert json.loads((back.parent / "a.json").read_text())["direction"] == "to torch"


def test_a_training_checkpoint_to_torch(tmp_path, config, model, official, capsys):
    raw = {f"model.{name}": value.numpy() for name, value in model.state_dict().items()}
    ema = {f"ema.{name}": value.numpy() * 0 for name, value in model.state_dict().items()}
    src, dst = tmp_path / "best.safetensors", tmp_path / "a.safetensors"
    write_checkpoint(src, {**raw, **ema}, {"best_by": "raw"})
    assert convert(["--config", str(config), "--src", str(src), "--dst", str(dst), "--to-torch"]) == 0
    assert "taken: model; also there: ema" in capsys.readouterr().out
    key = "blocks.0.attn.qkv.weight"
    np.testing.assert_array_equal(find_state_dict(read_source(dst)).arrays[key], official[key])


def test_faults_of_the_user(writer, tmp_path, config, official, capsys):
    src = writer.write_zip(tmp_path / "a.pth", tensors(writer, official))
    dst = tmp_path / "out" / "a.pdparams"

    def run(*more, source=src, name=config, target=dst):
        return convert(["--config", str(name), "--src", str(source), "--dst", str(target), *more])

    for arguments, status, message in (
        ({"source": tmp_path / "no.pth"}, 2, "no file"),
        ({"name": "sot_tiniest"}, 2, "did you mean sot_tiny"),
        ({"name": "sot_digits"}, 1, "these are weights of another model"),
    ):
        assert run(**arguments) == status
        assert message in capsys.readouterr().err
    assert run("--key", "state_dict") == 2
    assert "has no state dict 'state_dict'; it has (the file itself)" in capsys.readouterr().err
    for content in (b"", src.read_bytes()[:-50], src.read_bytes()[:300]):
        (tmp_path / "cut.pth").write_bytes(content)
        assert run(source=tmp_path / "cut.pth") == 2
        assert "cut.pth" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(target=tmp_path / "a.pth")
    assert run("--to-torch", target=tmp_path / "b.safetensors") == 2
    assert "--to-torch takes weights of this project" in capsys.readouterr().err
    assert not dst.parent.exists() and listing(tmp_path) == ["a.pth", "cut.pth", "small.yaml"]
    (tmp_path / "file").write_text("")
    assert run(target=tmp_path / "file" / "a.pdparams") == 2
    assert "can't write" in capsys.readouterr().err
    paddles = tmp_path / "own.pdparams"
    assert run(target=paddles) == 0
    assert run(source=paddles, target=paddles) == 2
    assert "is the source itself" in capsys.readouterr().err


def test_a_card_that_cannot_be_written_takes_the_weights_along(writer, tmp_path, config, official, capsys):
    src = writer.write_zip(tmp_path / "a.pth", tensors(writer, official))
    (tmp_path / "b.json" / "x").mkdir(parents=True)
    dst = tmp_path / "b.pdparams"
    assert convert(["--config", str(config), "--src", str(src), "--dst", str(dst)]) == 2
    assert "can't write" in capsys.readouterr().err and not dst.exists()


@pytest.mark.slow
def test_sot_tiny_end_to_end(writer, golden, tool, tmp_path):
    """The official code's logits, through a file of its kind and the command line."""
    facts, reference = golden.load("SoT_Tiny")
    weights = golden.state_dict(facts["entries"])
    content = {"state_dict_ema": tensors(writer, weights, "module."), "epoch": 309}
    for entry in facts["entries"]:
        if entry["name"].endswith("num_batches_tracked"):
            content["state_dict_ema"][f"module.{entry['name']}"] = writer.Tensor.of(np.array(0))
    src = writer.write_zip(tmp_path / "sot.pth.tar", content)
    np.savez(
        tmp_path / "sot.npz",
        input=golden.images(224),
        logits=reference["logits"],
        logits_f64=reference["logits_f64"],
    )
    dst = tmp_path / "sot.pdparams"
    common = ["--config", "sot_tiny", "--src", src, "--dst", dst, "--license", "not stated"]
    done = tool("convert_torch", *common, "--verify", tmp_path / "sot.npz")
    assert done.returncode == 0, done.stderr
    assert "tolerance 1.0e-08" in done.stdout
    model = create_model("sot_tiny", pretrained=dst)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(golden.images(224))).numpy()
    assert np.abs(logits - reference["logits"]).max() <= 1e-5 * max(1, reference["logits"].std())


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("swin_tiny", "layers.3.blocks.9.attn.relative_position_bias_table", (169, 3)),
        ("swin_tiny", "layers.x.relative_position_bias_table", (169, 3)),
        ("t2t_vit_7", "tokens_to_token.attention1.kqv.weight", (64, 0)),
    ],
)
def test_keys_and_shapes_that_no_rule_foresees(writer, tmp_path, capsys, sampled_starts, name, key, shape):
    """Such as of a deeper model of the family."""
    held = {key: writer.Tensor.of(np.zeros(shape, "f4")), 7: writer.Tensor.of(np.zeros(3, "f4"))}
    src = writer.write_zip(tmp_path / "a.pth", held)
    assert convert(["--config", name, "--src", str(src), "--dst", str(tmp_path / "a.pdparams")]) == 1
    assert f"  {'mismatched' if name[0] == 't' else 'unexpected'}  {key}" in capsys.readouterr().err
