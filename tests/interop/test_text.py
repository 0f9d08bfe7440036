"""Files of BERT, RoBERTa and GPT under the names of all projects that publish them, there and back."""

import argparse
import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from passl_sot import create_model
from passl_sot.cli import convert
from passl_sot.interop import convert_state_dict, export_state_dict
from passl_sot.modeling.classifier import Classifier
from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import read_weights
from passl_sot.weights.find import find_state_dict, read_source

WIDTH = 16
SIZES = {"vocab_size": 40, "max_positions": 10, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
POOLER = {"name": "PoolerHead", "num_classes": 3, "in_channels": WIDTH}
LINEAR = {"name": "LinearHead", "num_classes": 3, "in_channels": WIDTH}
SECOND = {"name": "CrossCovarianceHead", "num_classes": 3, "in_channels": WIDTH, "reduction": [4, 2]}
SECOND |= {"normalization": {"name": "SvPN"}}


def make(name: str, head: dict = POOLER, **more) -> Classifier:
    """A model of random weights, none of which is equal to another by having begun at 0 or 1."""
    paddle.seed(0)
    model = Classifier(architecture={"name": name, **SIZES, **more}, head=head)
    rng = np.random.default_rng(0)
    for value in model.state_dict().values():
        value.set_value(rng.standard_normal(value.shape).astype("f4"))
    return model


def arrays_of(model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def linear(name: str, arrays, ours: str) -> dict[str, np.ndarray]:
    return {f"{name}.weight": arrays[f"{ours}.weight"].T, f"{name}.bias": arrays[f"{ours}.bias"]}


def norm(name: str, arrays, ours: str) -> dict[str, np.ndarray]:
    return {f"{name}.weight": arrays[f"{ours}.weight"], f"{name}.bias": arrays[f"{ours}.bias"]}


def of_bert(arrays, prefix: str) -> dict[str, np.ndarray]:
    """Hugging Face's names, written out."""
    found = {
        f"{prefix}embeddings.word_embeddings.weight": arrays["backbone.word_embed.weight"],
        f"{prefix}embeddings.position_embeddings.weight": arrays["backbone.pos_embed.weight"],
        f"{prefix}embeddings.token_type_embeddings.weight": arrays["backbone.type_embed.weight"],
        **norm(f"{prefix}embeddings.LayerNorm", arrays, "backbone.embed_norm"),
    }
    for i in range(SIZES["depth"]):
        layer, ours = f"{prefix}encoder.layer.{i}", f"backbone.blocks.{i}"
        for part, name in enumerate(("query", "key", "value")):
            columns = slice(part * WIDTH, (part + 1) * WIDTH)
            found[f"{layer}.attention.self.{name}.weight"] = arrays[f"{ours}.attn.qkv.weight"][:, columns].T
            found[f"{layer}.attention.self.{name}.bias"] = arrays[f"{ours}.attn.qkv.bias"][columns]
        found |= linear(f"{layer}.attention.output.dense", arrays, f"{ours}.attn.proj")
        found |= norm(f"{layer}.attention.output.LayerNorm", arrays, f"{ours}.norm1")
        found |= linear(f"{layer}.intermediate.dense", arrays, f"{ours}.mlp.fc1")
        found |= linear(f"{layer}.output.dense", arrays, f"{ours}.mlp.fc2")
        found |= norm(f"{layer}.output.LayerNorm", arrays, f"{ours}.norm2")
    return found


def of_fairseq(arrays, top: str, fused: bool) -> dict[str, np.ndarray]:
    """fairseq's names, written out: of the first releases, or of later ones."""
    top += ".sentence_encoder"
    found = {
        f"{top}.embed_tokens.weight": arrays["backbone.word_embed.weight"],
        f"{top}.embed_positions.weight": arrays["backbone.pos_embed.weight"],
        **norm(
            f"{top}.{'emb_layer_norm' if fused else 'layernorm_embedding'}", arrays, "backbone.embed_norm"
        ),
    }
    for i in range(SIZES["depth"]):
        layer, ours = f"{top}.layers.{i}", f"backbone.blocks.{i}"
        if fused:
            found[f"{layer}.self_attn.in_proj_weight"] = arrays[f"{ours}.attn.qkv.weight"].T
            found[f"{layer}.self_attn.in_proj_bias"] = arrays[f"{ours}.attn.qkv.bias"]
        else:
            weights = np.split(arrays[f"{ours}.attn.qkv.weight"].T, 3)
            biases = np.split(arrays[f"{ours}.attn.qkv.bias"], 3)
            for name, weight, bias in zip("qkv", weights, biases, strict=True):
                found[f"{layer}.self_attn.{name}_proj.weight"] = weight
                found[f"{layer}.self_attn.{name}_proj.bias"] = bias
        found |= linear(f"{layer}.self_attn.out_proj", arrays, f"{ours}.attn.proj")
        found |= norm(f"{layer}.self_attn_layer_norm", arrays, f"{ours}.norm1")
        found |= linear(f"{layer}.fc1", arrays, f"{ours}.mlp.fc1")
        found |= linear(f"{layer}.fc2", arrays, f"{ours}.mlp.fc2")
        found |= norm(f"{layer}.final_layer_norm", arrays, f"{ours}.norm2")
    return found


def of_gpt(arrays, prefix: str) -> dict[str, np.ndarray]:
    """Hugging Face's names, in OpenAI's order; weights lie as Paddle wants them."""
    found = {
        f"{prefix}positions_embed.weight": arrays["backbone.pos_embed.weight"],
        f"{prefix}tokens_embed.weight": arrays["backbone.word_embed.weight"],
    }
    names = {"attn.c_attn": "attn.qkv", "attn.c_proj": "attn.proj", "ln_1": "norm1"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "ln_2": "norm2"}
    for i in range(SIZES["depth"]):
        for name, ours in names.items():
            found |= norm(f"{prefix}h.{i}.{name}", arrays, f"backbone.blocks.{i}.{ours}")
    return found


def check(model, state, ignored=(), left_new=("head.",), **expected) -> None:
    """All of a file is loaded or among `ignored`, and all of the model is there but what is left new."""
    wanted = arrays_of(model)
    out, report = convert_state_dict(model, state)
    assert report.ok, str(report)
    assert {source for source, _ in report.ignored} == set(ignored)
    taken = {part for source in report.sources.values() for part in source.split(" + ")}
    assert taken == state.keys() - set(ignored)
    assert all(name.startswith(left_new) for name in report.left_new)
    assert [name for name in wanted if name not in out] == report.left_new
    for name, value in out.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    for key, value in expected.items():
        assert getattr(report, key) == value


@pytest.mark.parametrize("prefix", ["", "bert.", "module.bert."])
def test_bert(prefix):
    model = make("BERT")
    arrays = arrays_of(model)
    body = of_bert(arrays, prefix)
    check(model, body)
    pooler = linear(f"{prefix}pooler.dense", arrays, "head.dense")
    check(model, body | pooler, left_new=("head.fc.",))
    more = {f"{prefix}embeddings.position_ids": np.arange(10)[None], "cls.predictions.bias": np.zeros(40)}
    more["cls.seq_relationship.weight"] = np.zeros((2, WIDTH))
    check(model, body | pooler | more, ignored=more, left_new=("head.fc.",))
    if prefix:
        old = {name.replace("Norm.weight", "Norm.gamma"): value for name, value in body.items()}
        old = {name.replace("Norm.bias", "Norm.beta"): value for name, value in old.items()}
        fine_tuned = old | pooler | linear("classifier", arrays, "head.fc")
        check(model, fine_tuned, left_new=())
        names = {name.removeprefix("module.") for name in body | pooler}
        assert export_state_dict(model, arrays).keys() == names | {"classifier.weight", "classifier.bias"}


def test_bert_under_the_second_order_head():
    model = make("BERT", SECOND)
    arrays = arrays_of(model)
    body = of_bert(arrays, "bert.")
    pooler = {"bert.pooler.dense.weight": np.zeros((WIDTH, WIDTH)), "bert.pooler.dense.bias": np.zeros(WIDTH)}
    check(model, body | pooler, ignored=pooler)
    head = {"bert.pooler.normalization.weight": arrays["head.normalization.weight"]}
    for name in ("visual_fc", "cls_fc"):
        head |= linear(f"bert.pooler.{name}", arrays, f"head.{name}")
    counters = {}
    for i in range(2):
        theirs, ours = (
            f"bert.pooler.representation.conv_dr_block.{i}",
            f"head.representation.conv_dr_block.{i}",
        )
        head[f"{theirs}.0.weight"] = arrays[f"{ours}.0.weight"].T[:, :, None]  # as of a Conv1d
        head |= norm(f"{theirs}.1", arrays, f"{ours}.1")
        head[f"{theirs}.1.running_mean"] = arrays[f"{ours}.1._mean"]
        head[f"{theirs}.1.running_var"] = arrays[f"{ours}.1._variance"]
        counters[f"{theirs}.1.num_batches_tracked"] = np.array(3)
    check(model, body | head | counters, ignored=counters, left_new=())
    assert export_state_dict(model, arrays).keys() == (body | head | counters).keys()


def test_roberta():
    model = make("RoBERTa")
    arrays = arrays_of(model)
    assert len(arrays["backbone.pos_embed.weight"]) == SIZES["max_positions"] + 2
    body = of_bert(arrays, "roberta.")
    more = {"roberta.pooler.dense.weight": np.zeros((WIDTH, WIDTH)), "lm_head.dense.weight": np.zeros((4, 4))}
    check(model, body | more, ignored=more)
    head = linear("classifier.dense", arrays, "head.dense") | linear("classifier.out_proj", arrays, "head.fc")
    check(model, body | head, left_new=())
    assert export_state_dict(model, arrays).keys() == (body | head).keys()


@pytest.mark.parametrize(("top", "fused"), [("decoder", True), ("decoder", False), ("encoder", False)])
def test_fairseq(top, fused):
    model = make("RoBERTa")
    model.backbone.type_embed.weight.set_value(paddle.zeros([1, WIDTH]))
    arrays = arrays_of(model)
    body = of_fairseq(arrays, top, fused)
    more = {f"{top}.lm_head.bias": np.zeros(40), f"{top}.sentence_encoder.version": np.array([3.0])}
    zeros = ["backbone.type_embed.weight"]
    check(model, body | more, ignored=more, zeros=zeros, naming="fairseq")
    heads = f"{'' if top == 'decoder' else 'encoder.'}classification_heads.mnli"
    head = linear(f"{heads}.dense", arrays, "head.dense") | linear(f"{heads}.out_proj", arrays, "head.fc")
    check(model, body | head, left_new=(), zeros=zeros)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt(prefix):
    model = make("GPT", LINEAR)
    arrays = arrays_of(model)
    body = of_gpt(arrays, prefix)
    more = {f"{prefix}h.{i}.attn.bias": np.tril(np.ones((1, 1, 10, 10))) for i in range(2)}
    more["lm_head.weight"] = arrays["backbone.word_embed.weight"]
    check(model, body | more, ignored=more)
    if prefix:
        names = body.keys() | {"score.weight", "score.bias"}
        assert export_state_dict(model, arrays).keys() == names
        # Theirs has no bias.
        model.head.fc.bias.set_value(paddle.zeros([3]))
        score = {"score.weight": arrays["head.fc.weight"].T}
        check(model, body | score, left_new=(), zeros=["head.fc.bias"], naming="official")
        del body["transformer.h.0.ln_1.bias"]
        assert convert_state_dict(model, body | score)[1].missing == ["backbone.blocks.0.norm1.bias"]


def test_tokens_of_tasks_are_new_rows():
    model = make("GPT", LINEAR)
    fresh = arrays_of(model)["backbone.word_embed.weight"]
    state = of_gpt(arrays_of(make("GPT", LINEAR, vocab_size=37)), "")
    out, report = convert_state_dict(model, state)
    assert report.ok and report.extended == [("tokens_embed.weight", (37, WIDTH), (40, WIDTH))]
    assert "new rows    tokens_embed.weight [37, 16] -> [40, 16]" in str(report)
    table = out["backbone.word_embed.weight"]
    np.testing.assert_array_equal(table, np.concatenate([state["tokens_embed.weight"], fresh[37:]]))
    for size, name in ((36, "GPT"), (41, "GPT"), (37, "BERT")):
        other = make(name, LINEAR, vocab_size=size)
        official = export_state_dict(other, arrays_of(other))
        _, report = convert_state_dict(make(name, LINEAR), official)
        assert [target for _, target, _, _ in report.mismatched] == ["backbone.word_embed.weight"]
        assert "another vocabulary" in str(report)


@pytest.mark.parametrize(("name", "first"), [("BERT", 0), ("RoBERTa", 2)])
def test_position_tables_of_another_length(name, first):
    arrays = arrays_of(model := make(name))
    state = export_state_dict(model, arrays)
    old = arrays["backbone.pos_embed.weight"]
    for length in (4, 25):
        out, report = convert_state_dict(make(name, max_positions=length), state)
        assert report.ok and [shapes for _, *shapes in report.adapted] == [
            [(first + 10, WIDTH), (first + length, WIDTH)]
        ]
        table = out["backbone.pos_embed.weight"]
        rows = [*range(first), *(first + i % 10 for i in range(length))]
        np.testing.assert_array_equal(table, old[rows])


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("BERT", POOLER),
        ("BERT", SECOND),
        ("RoBERTa", POOLER),
        ("RoBERTa", SECOND),
        ("GPT", LINEAR),
        ("GPT", SECOND),
    ],
)
def test_round_trips_are_exact(name, head, tmp_path):
    model = make(name, head)
    arrays = arrays_of(model)
    config = tmp_path / "model.yaml"
    config.write_text(json.dumps({"model": {"architecture": {"name": name, **SIZES}, "head": head}}))
    mine, official, back = tmp_path / "a.pdparams", tmp_path / "b.safetensors", tmp_path / "c.pdparams"
    paddle.save(model.state_dict(), str(mine))
    common = ["--config", str(config), "--src"]
    assert convert([*common, str(mine), "--dst", str(official), "--to-torch"]) == 0
    assert not any("qkv" in key for key in load_file(official))
    assert convert([*common, str(official), "--dst", str(back)]) == 0
    got, _ = read_weights(back)
    assert got.keys() == arrays.keys()
    for key, value in arrays.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)
    assert create_model(str(config), pretrained=back).weights_report.naming == "passl_sot"


def test_a_trained_head_is_never_left_aside():
    source = make("BERT")
    state = export_state_dict(source, arrays_of(source))
    _, report = convert_state_dict(make("BERT", LINEAR), state)
    # Its last layer fits, and would take the class token in the pooler's place.
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert {name for name, _ in report.unexpected} == pooler
    _, report = convert_state_dict(make("BERT", SECOND), state)
    classifier = {"classifier.weight", "classifier.bias"}
    assert report.ok and {name for name, _ in report.ignored} == pooler | classifier
    nine = make("BERT", {**POOLER, "num_classes": 9})
    assert not convert_state_dict(nine, state)[1].ok
    _, report = convert_state_dict(nine, state, new_head=True)
    assert report.ok and report.left_new == ["head.fc.weight", "head.fc.bias"]
    del state["bert.pooler.dense.weight"]
    assert convert_state_dict(source, state)[1].missing == ["head.dense.weight"]
    # Of files that this project wrote all is wanted.
    own = {name: value for name, value in arrays_of(source).items() if not name.startswith("head.")}
    _, report = convert_state_dict(source, own, layout="paddle")
    assert [name.split(".")[0] for name in report.missing] == ["head"] * 4
    # A body is a start for any head where that may be new.
    for head in (POOLER, SECOND):
        model = make("BERT", head)
        _, report = convert_state_dict(model, own, layout="paddle", new_head=True)
        assert report.ok and {*report.left_new} == {
            name for name in arrays_of(model) if name.startswith("head.")
        }


def test_parts_that_do_not_make_a_whole():
    model = make("BERT")
    state = export_state_dict(model, arrays_of(model))
    layer = "bert.encoder.layer.1.attention.self"
    twice = {**state, f"module.{layer}.key.bias": state[f"{layer}.key.bias"]}
    _, report = convert_state_dict(model, twice)
    assert report.conflicts == [
        f"module.{layer}.key.bias and {layer}.key.bias both mean the key of backbone.blocks.1.attn.qkv.bias"
    ]
    state[f"{layer}.key.bias"] = np.zeros(3)
    del state[f"{layer}.value.weight"]
    _, report = convert_state_dict(model, state)
    assert sorted(report.conflicts) == [
        f"backbone.blocks.1.attn.qkv.{leaf} is made of query, key, value, of one shape; there is {there}"
        for leaf, there in (
            ("bias", f"{layer}.query.bias + {layer}.key.bias + {layer}.value.bias"),
            ("weight", f"{layer}.query.weight + {layer}.key.weight"),
        )
    ]
    assert not report.missing and not report.unexpected
    extra = {"bert.encoder.layer.7.attention.self.query.bias": np.zeros(WIDTH)}
    _, report = convert_state_dict(model, {**export_state_dict(model, arrays_of(model)), **extra})
    assert [name for name, _ in report.unexpected] == list(extra)


def test_logits_are_verified(tmp_path, capsys):
    model = make("BERT")
    model.eval()
    inputs = dict(zip(model.backbone.input_names, model.backbone.example_inputs(2), strict=True))
    with paddle.no_grad():
        logits = model(*map(paddle.to_tensor, inputs.values())).numpy()
    config, src, fixture = tmp_path / "model.yaml", tmp_path / "a.safetensors", tmp_path / "fixture.npz"
    config.write_text(json.dumps({"model": {"architecture": {"name": "BERT", **SIZES}, "head": POOLER}}))
    save_file(export_state_dict(model, arrays_of(model)), src)
    command = ["--config", str(config), "--src", str(src), "--dst", str(tmp_path / "b.pdparams")]
    command += ["--verify", str(fixture)]
    np.savez(fixture, logits=logits, **inputs)
    assert convert(command) == 0
    for change, said in (
        ({"input_ids": inputs["input_ids"] % 7 + 1}, "the model does not give the logits"),
        ({"input_ids": inputs["input_ids"] * 0.5}, "fixture.npz is for another model"),
    ):
        np.savez(fixture, logits=logits, **{**inputs, **change})
        assert convert(command) == 1 and said in capsys.readouterr().err
    np.savez(fixture, logits=logits, input_ids=inputs["input_ids"])
    assert convert(command) == 2
    assert "needs the arrays input_ids, attention_mask, token_type_ids and logits" in capsys.readouterr().err


def test_files(writer, tmp_path):
    model = make("RoBERTa")
    model.backbone.type_embed.weight.set_value(paddle.zeros([1, WIDTH]))
    arrays = arrays_of(model)
    bert, body = of_bert(arrays, "roberta."), of_fairseq(arrays, "decoder", True)
    save_file({name: np.ascontiguousarray(value) for name, value in bert.items()}, tmp_path / "a.safetensors")
    tensors = {name: writer.Tensor.of(value) for name, value in bert.items()}
    writer.write_zip(tmp_path / "b.bin", tensors)
    writer.write_legacy(tmp_path / "c.bin", tensors)
    # As fairseq saves: settings, the model, and the state of the training.
    settings = argparse.Namespace(arch="roberta_base", lr=[0.0006], no_cuda=False)
    history = [{"optimizer_name": "FP16Optimizer", "num_updates": 500000}]
    content = {"args": settings, "model": {name: writer.Tensor.of(value) for name, value in body.items()}}
    content |= {"optimizer_history": history, "extra_state": {"epoch": 3, "val_loss": 1.5}}
    writer.write_legacy(tmp_path / "model.pt", content)
    for file in ("a.safetensors", "b.bin", "c.bin", "model.pt"):
        found = find_state_dict(read_source(tmp_path / file))
        check(model, found.arrays, zeros=["backbone.type_embed.weight"] if found.key else [])
    content["cfg"] = np.poly1d([1])  # of a class that weights don't need
    writer.write_legacy(tmp_path / "model.pt", content)
    with pytest.raises(CheckpointError, match=r"asks for numpy.*which weights don't need; refused"):
        read_source(tmp_path / "model.pt")


@pytest.fixture
def shards(tmp_path):
    """The folder as OpenAI published it, of a tiny model, and that model."""
    model = make("GPT", LINEAR)
    folder = tmp_path / "model"
    folder.mkdir()
    values = list(of_gpt(arrays_of(model), "").values())
    shapes = [[1, *v.shape] if v.ndim == 2 and i >= 2 else list(v.shape) for i, v in enumerate(values)]
    (folder / "params_shapes.json").write_text(json.dumps(shapes))
    numbers = np.concatenate([value.reshape(-1) for value in values])
    for number, piece in enumerate(np.array_split(numbers, 12)):
        np.save(folder / f"params_{number}.npy", piece)
    return folder, model


def test_openais_shards(shards, tmp_path):
    folder, model = shards
    found = find_state_dict(read_source(folder))
    check(model, found.arrays, naming="OpenAI")
    config = tmp_path / "model.yaml"
    config.write_text(json.dumps({"model": {"architecture": {"name": "GPT", **SIZES}, "head": LINEAR}}))
    dst = tmp_path / "gpt.pdparams"
    assert convert(["--config", str(config), "--src", str(folder), "--dst", str(dst)]) == 0
    card = json.loads(dst.with_suffix(".json").read_text())
    assert card["source"]["file"] == "model" and len(card["source"]["sha256"]) == 64
    assert card["left_new"] == ["head.fc.weight", "head.fc.bias"]


def test_faults_of_shards(shards):
    folder, _ = shards
    description = folder / "params_shapes.json"
    shapes = json.loads(description.read_text())
    for text, said in [
        (shapes[:-1], "has 25 shapes, which no GPT has"),
        ([[10, 17], *shapes[1:]], "numbers, and its shapes want"),
        ([[10, -16], *shapes[1:]], "other things than sizes"),
        ({"a": 1}, "damaged"),
    ]:
        description.write_text(json.dumps(text))
        with pytest.raises(CheckpointError, match=said):
            read_source(folder)
    description.write_text(json.dumps(shapes))
    np.save(folder / "params_4.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="Python objects, refused"):
        read_source(folder)
    (folder / "params_4.npy").unlink()
    with pytest.raises(CheckpointError, match=r"model lacks params_4\.npy"):
        read_source(folder)


def test_a_real_bert(minilm, tmp_path, capfd):
    """MiniLM, 6 blocks of width 384, as its authors publish it."""
    src = minilm / "model.safetensors"
    config, dst, back = tmp_path / "minilm.yaml", tmp_path / "a.pdparams", tmp_path / "b.safetensors"
    sizes = {"vocab_size": 30522, "embed_dim": 384, "depth": 6, "num_heads": 12}
    head = {**POOLER, "in_channels": 384}
    config.write_text(json.dumps({"model": {"architecture": {"name": "BERT", **sizes}, "head": head}}))
    assert convert(["--config", str(config), "--src", str(src), "--dst", str(dst)]) == 0
    assert "all keys accounted for (official naming): 79 loaded" in capfd.readouterr().out
    card = json.loads(dst.with_suffix(".json").read_text())
    assert card["left_new"] == ["head.fc.weight", "head.fc.bias"] and card["keys"]["ignored"] == 1
    assert convert(["--config", str(config), "--src", str(dst), "--dst", str(back), "--to-torch"]) == 0
    there, here = load_file(src), load_file(back)
    assert there.keys() - {name.removeprefix("bert.") for name in here} == {"embeddings.position_ids"}
    for name, value in here.items():
        if not name.startswith("classifier."):
            np.testing.assert_array_equal(value, there[name.removeprefix("bert.")], err_msg=name)
