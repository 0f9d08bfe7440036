"""Twenty updates of every family at a tiny size, pinned: another start or gradient gives other losses."""

import numpy as np
import paddle
import pytest

from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.losses import CrossEntropyLoss
from passl_sot.optim import build_optimizer

LINEAR = {"name": "LinearHead", "num_classes": 3, "pool": "mean", "in_channels": 24, "num_prefix_tokens": 1}
SIZE = {"img_size": 32}
PLAIN = {"img_size": 32, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0}
PIT = {"img_size": 32, "patch_size": 4, "stride": 2, "head_dim": 6, "mlp_ratio": 2.0}
STVIT = {
    "img_size": 32,
    "embed_dim": [8, 12, 24],
    "depths": [2, 1, 2],
    "num_heads": [1, 2, 4],
    "mlp_ratio": 2.0,
}
SECOND_ORDER = {
    "name": "SecondOrderHead",
    "num_classes": 3,
    "in_channels": 24,
    "num_heads": 2,
    "wr_dim": 6,
    "normalization": {"name": "SvPN"},
}
SO_VIT = {"name": "CrossCovarianceHead", "num_classes": 3, "in_channels": 24, "reduction": [8, 6]}
MODELS = {
    "SoT": ({"name": "SoT", "token_dim": 8, **PLAIN}, SECOND_ORDER),
    "So-ViT": ({"name": "SoT", "token_dim": 8, "token_embed": "ResNet", **PLAIN}, SO_VIT),
    "DeiT": ({"name": "DeiT", "patch_size": 8, **PLAIN}, LINEAR),
    "T2TViT": ({"name": "T2TViT", "token_dim": 8, **PLAIN}, LINEAR),
    "PiT": (
        {"name": "PiT", "depths": [2, 1, 2], "num_heads": [1, 2, 4], **PIT},
        LINEAR,
    ),
    "Swin": (
        {
            "name": "Swin",
            "img_size": 32,
            "embed_dim": 12,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 3,
        },
        {**LINEAR, "num_prefix_tokens": 0},
    ),
    "STViT": (
        {
            "name": "STViT",
            "stoken_size": [4, 2, 1],
            "n_iter": [1, 1, 1],
            "layerscale": [False, False, True],
            "init_values": 0.1,
            "projection": 24,
            "mlp_ratio": 2.0,
            **STVIT,
        },
        {**LINEAR, "num_prefix_tokens": 0},
    ),
}
# The loss of update 1, 5, 10 and 20.
CURVES = {
    "SoT": [1.1004, 1.0116, 0.6072, 0.2963],
    "So-ViT": [1.0987, 0.89, 0.4863, 0.1253],
    "DeiT": [1.1003, 0.7114, 0.4663, 0.1996],
    "T2TViT": [1.1021, 0.99, 0.549, 0.2273],
    "PiT": [1.1055, 0.8379, 0.5641, 0.241],
    "Swin": [1.1193, 0.7441, 0.5183, 0.2284],
    "STViT": [1.0944, 0.9273, 0.7295, 0.4163],
}


def curve(name: str) -> list[float]:
    paddle.seed(0)
    architecture, head = MODELS[name]
    model = Classifier(architecture=architecture, head=head)
    model.train()
    optimizer = build_optimizer({"name": "AdamW", "weight_decay": 0.05})(model)
    optimizer.set_lr(3e-3)
    generator = np.random.default_rng(0)
    labels = np.arange(12) % 3
    pictures = generator.standard_normal((12, 3, 32, 32)) + np.eye(3)[labels][:, :, None, None]
    images, targets = paddle.to_tensor(pictures.astype("float32")), paddle.to_tensor(labels)
    loss_of, losses = CrossEntropyLoss(), []
    for _ in range(20):
        loss = loss_of(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    return [losses[i] for i in (0, 4, 9, 19)]


def test_every_backbone_has_a_curve():
    assert {architecture["name"] for architecture, _ in MODELS.values()} == set(BACKBONES.names())


@pytest.mark.parametrize("name", MODELS)
def test_twenty_updates(name):
    losses = curve(name)
    assert losses[:3] == pytest.approx(CURVES[name][:3], abs=5e-3)
    # Roundings grow along the way: other settings of the matrix library move the last by up to 0.02.
    assert losses[3] == pytest.approx(CURVES[name][3], abs=0.05)
