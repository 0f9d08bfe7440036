"""Training in evaluation mode, or with BatchNorm frozen, as in fine-tuning."""

import numpy as np
import paddle
import pytest

from passl_sot.config import ConfigError
from passl_sot.engine.distributed import World
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.engine.training_mode import running_statistics, set_training_mode
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.batch_norm import batch_norm
from passl_sot.weights.checkpoint import read_checkpoint

NETWORK = (
    "model.architecture={name: STViT, img_size: 32, embed_dim: [8, 12, 16], depths: [1, 1, 2],"
    " num_heads: [1, 2, 4], stoken_size: [4, 2, 1], n_iter: [1, 1, 1], layerscale: [false, false, true],"
    " mlp_ratio: 2.0, projection: 24, drop_path_rate: 0.5}",
    "model.head={name: LinearHead, num_classes: 3, in_channels: 24, pool: mean, num_prefix_tokens: 0,"
    " dropout: 0.5}",
)


@pytest.mark.parametrize(
    ("mode", "statistics_move", "layers_drop"),
    [("train", True, True), ("frozen_batch_norm", False, True), ("eval", False, False)],
)
def test_what_moves_in_each_mode(experiment, tmp_path, mode, statistics_move, layers_drop):
    cfg = load_config(experiment, [*NETWORK, f"training_mode={mode}"])
    trainer = Trainer(cfg, tmp_path / "run", World())
    before = {name: value.numpy() for name, value in trainer.model.state_dict().items()}
    task, seen = trainer.task.step, []

    def watch(model, batch):
        with paddle.no_grad():
            buffers = running_statistics(trainer.model, trainer.parts.frozen)
            statistics = [(tensor, tensor.clone()) for tensor in buffers]
            seen.append(float(task(model, batch)["loss"]) != float(task(model, batch)["loss"]))
            for tensor, value in statistics:
                tensor.set_value(value)
        return task(model, batch)

    trainer.task.step = watch
    trainer.fit()
    # Six updates in two epochs, with an evaluation in between, which leaves the mode as it was.
    assert seen == [layers_drop] * 6
    after = read_checkpoint(tmp_path / "run" / "last.safetensors").part("model")
    for name, value in before.items():
        moved = not np.array_equal(value, after[name])
        statistic = name.endswith(("._mean", "._variance"))
        assert moved == (statistics_move if statistic else True), name


def test_gradients_through_a_frozen_batch_norm():
    """Its output is an affine function of each input alone; the weight and the bias still learn."""
    layer = batch_norm(3)
    layer._mean.set_value(paddle.to_tensor([0.1, -0.2, 0.3]))
    layer._variance.set_value(paddle.to_tensor([2.0, 0.5, 1.0]))
    x, dy = paddle.randn([4, 3, 5, 5]), paddle.randn([4, 3, 5, 5])
    x.stop_gradient = False
    set_training_mode(layer, "eval")
    (layer(x) * dy).sum().backward()
    scale = 1 / np.sqrt(np.array([2.0, 0.5, 1.0]) + 1e-5)[:, None, None]
    normal = (x.numpy() - np.array([0.1, -0.2, 0.3])[:, None, None]) * scale
    np.testing.assert_allclose(x.grad.numpy(), dy.numpy() * scale, rtol=1e-5)
    np.testing.assert_allclose(layer.weight.grad.numpy(), (dy.numpy() * normal).sum((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(layer.bias.grad.numpy(), dy.numpy().sum((0, 2, 3)), rtol=1e-4)


def test_recompute_saves_memory_in_evaluation_mode_too(experiment):
    cfg = load_config(experiment, NETWORK)
    model = Classifier(architecture=cfg.model.architecture, head=cfg.model.head)
    set_training_mode(model, "eval")
    x, gradients, calls = paddle.randn([2, 3, 32, 32]), [], []
    block = next(layer for name, layer in model.named_sublayers() if name.endswith("blocks.0"))
    block.register_forward_post_hook(lambda *_: calls.append(1))
    for on in (False, True):
        model.set_recompute(on)
        calls.clear()
        model(x).square().sum().backward()
        gradients.append({n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None})
        assert len(calls) == (2 if on else 1)
        model.clear_gradients()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)
    calls.clear()
    with paddle.no_grad():
        model(x)
    assert len(calls) == 1


def test_modes_that_cannot_be(experiment):
    with pytest.raises(
        ConfigError, match=r"training_mode: expected one of 'train', 'eval', 'frozen_batch_norm'"
    ):
        load_config(experiment, ["training_mode=evaluate"])
    task = "+task={name: DistillationTask, teacher: {config: sot_tiny}}"
    with pytest.raises(ConfigError, match="take frozen_batch_norm, or task: null"):
        load_config(experiment, [task, "training_mode=eval"])
