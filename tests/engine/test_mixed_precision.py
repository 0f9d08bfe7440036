"""What can be tested of mixed precision without a GPU: the choice, the scale of the loss, the islands."""

import numpy as np
import paddle
import pytest

from passl_sot.engine.amp import AmpSection, Precision
from passl_sot.engine.schema import load_config
from passl_sot.engine.train_state import Progress
from passl_sot.modeling.classifier import Classifier
from passl_sot.weights import state
from passl_sot.weights.checkpoint import read_checkpoint


def choose(level="O1", dtype="auto", on_gpu=True, has_bfloat16=True) -> Precision:
    return Precision(AmpSection(level=level, dtype=dtype), on_gpu=on_gpu, has_bfloat16=has_bfloat16)


@pytest.mark.parametrize(
    ("options", "dtype", "note"),
    [
        ({}, "bfloat16", "amp O1 in bfloat16"),
        ({"has_bfloat16": False, "level": "O2"}, "float16", "amp O2 in float16"),
        ({"dtype": "float16"}, "float16", "amp O1 in float16"),
        ({"dtype": "bfloat16", "has_bfloat16": False}, "bfloat16", "float16 may be faster"),
        ({"on_gpu": False}, "float32", "does nothing on a CPU: training in float32"),
    ],
)
def test_the_choice_by_device(options, dtype, note):
    precision = choose(**options)
    assert precision.dtype == dtype
    assert note in precision.note
    assert Precision(None, on_gpu=True, has_bfloat16=True).note == ""


def test_on_a_cpu_the_user_is_told_and_nothing_changes(experiment, invoke, tmp_path):
    plain = invoke("train", "-c", experiment, "-o", "epochs=1", f"output_dir={tmp_path}/plain")
    amp = ("epochs=1", "+amp={level: O2}", f"output_dir={tmp_path}/amp")
    done = invoke("train", "-c", experiment, "-o", *amp)
    assert plain.returncode == done.returncode == 0, done.stderr
    for level, run in (("O1", plain), ("O2", done)):  # the recipe's own, and another; one line each
        said = f"amp {level} is asked for, but Paddle's mixed precision does nothing on a CPU"
        assert run.stdout.count(said) == 1
    a, b = (
        read_checkpoint(tmp_path / name / "run" / "last.safetensors").tensors for name in ("plain", "amp")
    )
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_scale_leaves_gradients_as_they_are_and_follows_overflows():
    precision, progress = choose(dtype="float16"), Progress()
    weight = paddle.create_parameter([3], "float32")
    (weight.square().sum() * 0.5).backward()
    wanted = weight.grad.numpy()
    weight.clear_grad()
    precision.backward(weight.square().sum() * 0.5, progress)
    np.testing.assert_array_equal(weight.grad.numpy(), wanted * 8192)
    precision.unscale([weight], progress)
    np.testing.assert_array_equal(weight.grad.numpy(), wanted)
    assert precision.update_loss_scale(True, progress)
    assert progress.loss_scale == 4096
    for _ in range(2000):
        assert not precision.update_loss_scale(False, progress)
    assert progress.loss_scale == 8192
    progress.loss_scale = 1.0
    assert not precision.update_loss_scale(True, progress)  # no smaller scale helps
    plain = Progress()
    assert not choose().update_loss_scale(True, plain)  # bfloat16 reaches as far as float32
    assert plain == Progress()


def test_master_weights_are_kept_by_structured_names():
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 2))

    class Optimizer:
        given = None

        def state_dict(self):
            return {"master_weights": {p.name: paddle.full(p.shape, 0.1) for p in model.parameters()}}

        def set_state_dict(self, entries):
            self.given = entries

    optimizer = Optimizer()
    arrays = state.optimizer_arrays(optimizer, model)
    assert sorted(arrays) == ["0.bias|master_weights", "0.weight|master_weights"]
    state.load_optimizer(optimizer, model, arrays)
    masters = optimizer.given["master_weights"]
    assert set(masters) == {p.name for p in model.parameters()}
    assert float(masters[model[0].bias.name][0]) == pytest.approx(0.1)


@pytest.mark.parametrize(("kind", "tolerance"), [("float16", 0.01), ("bfloat16", 0.08)])
def test_values_of_16_bits_train_the_whole_model(experiment, kind, tolerance):
    """Weights and images rounded to what 16 bits can hold: logits stay close and gradients finite."""
    cfg = load_config(experiment, ["model.architecture.drop_path_rate=0", "model.architecture.drop_rate=0"])
    paddle.seed(0)
    model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
    model.eval()
    images = paddle.randn([4, 3, 32, 32])
    exact = model(images)
    with paddle.no_grad():
        for parameter in model.parameters():
            parameter.set_value(parameter.astype(kind).astype("float32"))
    rounded = model(images.astype(kind).astype("float32"))
    assert float((rounded - exact).abs().max()) < tolerance * max(1.0, float(exact.abs().max()))
    rounded.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
