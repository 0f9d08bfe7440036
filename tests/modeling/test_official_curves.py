"""Twelve updates of the official code, made again: losses, norms, weights, statistics, averages, logits."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl_sot.interop import convert_state_dict
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.losses import CrossEntropyLoss
from passl_sot.optim import build_optimizer
from passl_sot.optim.clip import clip_by_global_norm, global_grad_norm
from passl_sot.optim.ema import ModelEMA
from passl_sot.optim.groups import group_parameters

FOLDER = Path(__file__).parents[1] / "fixtures" / "curves"
SEED = 20260101
# Paddle's AdamW takes the decay, 0.05, as a float32.
DECAY = 3e-11


def without_dropout(model: paddle.nn.Layer) -> paddle.nn.Layer:
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
    return model


@pytest.fixture(scope="module", params=["sot", "t2t_performer", "stvit", "swin"])
def run(request, golden):
    """A fixture's content, and what our model made of the same twelve steps in float64."""
    facts = json.loads((FOLDER / f"{request.param}.json").read_text())
    values = np.load(FOLDER / f"{request.param}.npz")
    recipe, size, batch = facts["recipe"], facts["img_size"], facts["batch"]
    model = without_dropout(Classifier(**facts["project"])).to(dtype="float64")
    converted, report = convert_state_dict(model, golden.state_dict(facts["entries"]))
    assert report.ok, str(report)
    model.set_state_dict(converted)
    model.train()
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    state = model.state_dict()
    names = {e["name"]: e["name"] for e in facts["entries"]} | dict(report.renamed)
    # Fixed tables of the official code (position tables, masks) have no entry of ours.
    watched = {name: state[names[name]] for name in facts["stat_names"] if names[name] in state}
    assert set(watched) >= {e["name"] for e in facts["entries"] if e["trained"] or "running" in e["kind"]}
    first = {name: value.numpy() for name, value in watched.items()}
    loss_of = CrossEntropyLoss(label_smoothing=0.1)
    optimizer = build_optimizer({"name": "AdamW", "weight_decay": recipe["weight_decay"]})(model)
    average = ModelEMA(model, recipe["ema_decay"])
    out = {"losses": [], "grad_norms": []}
    for step, rate in enumerate(recipe["lrs"]):
        images = golden.array([batch, 3, size, size], SEED + step)
        labels = (np.arange(batch) * 7 + step) % 10
        loss = loss_of(model(paddle.to_tensor(images, "float64")), paddle.to_tensor(labels))
        loss.backward()
        if step == 0:
            out["grad_l2_step1"] = {
                n: t.grad is not None and t.grad.norm().item() for n, t in watched.items()
            }
        norm = global_grad_norm(parameters)
        clip_by_global_norm(parameters, norm, recipe["clip"])
        optimizer.set_lr(rate)
        optimizer.step()
        optimizer.clear_grad()
        average.update()
        out["losses"].append(loss.item())
        out["grad_norms"].append(norm)
    model.eval()
    images = paddle.to_tensor(golden.array([batch, 3, size, size], SEED + len(recipe["lrs"])), "float64")
    with paddle.no_grad():
        out["logits"] = model(images).numpy()
        with average.applied():
            out["ema_logits"] = model(images).numpy()
            out["averages"] = {name: value.numpy() for name, value in watched.items()}
    out["values"] = {name: value.numpy() for name, value in watched.items()}
    out["moved"] = {name: value - first[name] for name, value in out["values"].items()}
    groups = group_parameters(model)
    out["groups"] = {
        key: sum(len(g.parameters) for g in groups if g.decayed == (key == "decay"))
        for key in facts["groups"]
    }
    return facts, values, out


def test_losses_and_norms(run):
    facts, _, out = run
    np.testing.assert_allclose(out["losses"], facts["float64"]["losses"], rtol=1e-9)
    np.testing.assert_allclose(out["grad_norms"], facts["float64"]["grad_norms"], rtol=1e-8)
    assert out["groups"] == facts["groups"]


def test_weights_and_statistics(run):
    facts, values, out = run
    for i, name in enumerate(facts["stat_names"]):
        if name not in out["values"]:
            continue
        value, average, moved = out["values"][name], out["averages"][name], out["moved"][name]
        for kind, tensor in (("", value), ("ema_", average)):
            scale = values[f"{kind}l2_f64"][i] + DECAY
            got = np.linalg.norm(tensor.astype("float64"))
            assert abs(got - values[f"{kind}l2_f64"][i]) <= 1e-8 * scale, (kind, name)
            off = abs(tensor.astype("float64").sum() - values[f"{kind}sum_f64"][i])
            assert off <= 1e-8 * scale * np.sqrt(tensor.size), (kind, name)
        # A weight whose gradient is mathematically 0 moves by rounding errors.
        if name not in facts["noise"]:
            expected = values["moved_l2_f64"][i]
            assert np.linalg.norm(moved) == pytest.approx(expected, rel=1e-7, abs=1e-12), name
        gradient = values["grad_l2_step1_f64"][i]
        if np.isnan(gradient):
            assert not out["grad_l2_step1"][name], name
        else:
            assert out["grad_l2_step1"][name] == pytest.approx(gradient, rel=1e-8, abs=1e-12), name


def test_logits(run):
    _, values, out = run
    np.testing.assert_allclose(out["logits"], values["logits_f64"], atol=1e-8)
    np.testing.assert_allclose(out["ema_logits"], values["ema_logits_f64"], atol=1e-8)
