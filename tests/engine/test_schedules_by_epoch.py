"""Drop-path, augmentation and loss weights that change with the epochs, in runs of every family."""

import numpy as np
import pytest

from passl_sot.config.signature import Signature
from passl_sot.engine.distributed import World
from passl_sot.engine.run_dir import read_metrics
from passl_sot.engine.schema import load_config
from passl_sot.engine.trainer import Trainer
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.backbones.base import Backbone, ImageBackbone
from passl_sot.nn.layers import DropPath

SMALL = "img_size: 32, embed_dim: 16, depth: 3, num_heads: 2"
BACKBONE = {
    "SoT": f"{{name: SoT, {SMALL}, token_embed: Naive_linear",
    "So-ViT": f"{{name: SoT, {SMALL}, token_embed: ResNet, token_dim: 8",
    "DeiT": f"{{name: DeiT, patch_size: 16, {SMALL}",
    "T2TViT": f"{{name: T2TViT, token_dim: 8, {SMALL}",
    "PiT": "{name: PiT, img_size: 32, patch_size: 8, stride: 8, head_dim: 4, depths: [1, 2],"
    " num_heads: [2, 4]",
    "Swin": "{name: Swin, img_size: 32, embed_dim: 8, depths: [1, 2], num_heads: [2, 4], window_size: 4",
    "STViT": "{name: STViT, img_size: 32, embed_dim: [8, 16], depths: [1, 2], num_heads: [1, 2],"
    " stoken_size: [4, 1], n_iter: [1, 1], layerscale: [false, true], projection: 16",
}
SUM = "{name: SecondOrderHead, num_classes: 3, in_channels: 16, num_heads: 2, wr_dim: 4,"
SUM += " normalization: {name: SvPN}, num_prefix_tokens: 1, fusion_type: sum_loss}"
HEAD = {
    "So-ViT": "{name: CrossCovarianceHead, num_classes: 3, in_channels: 16, reduction: [6, 4]}",
    # Without a class token there is one classifier.
    "Swin": SUM.replace("tokens: 1", "tokens: 0").replace("sum_loss", "sum_fc"),
}
HEAD["STViT"] = HEAD["Swin"]
TRANSFORMS = """[{name: Resize, size: [32, 32]}, {name: ByEpoch, steps: {"0": [],
  "1": [{name: RandAugment, policy: rand-m1-inc1}], "2": [{name: RandAugment, policy: rand-m9-inc1}]}},
  {name: Normalize}]"""


def test_every_backbone_has_a_run():
    # Those of texts drop no path.
    names = [name for name in BACKBONES.names() if issubclass(BACKBONES.get(name), ImageBackbone)]
    assert {text.split(",")[0].removeprefix("{name: ") for text in BACKBONE.values()} == set(names)
    for name in names:
        hint = Signature.of(BACKBONES.get(name)).hints["drop_path_rate"]
        assert "linear" in str(hint), name


@pytest.mark.parametrize("family", BACKBONE)
def test_three_schedules_in_one_run(family, experiment, tmp_path):
    """Rates go straight up, pictures are augmented later and stronger, the weights of the losses change."""
    head = HEAD.get(family, SUM)
    outputs = 2 if "sum_loss" in head else 1
    weights = ["{'0': 1.0, '2': 0.0, between: linear}", "{'0': 0.5, '2': 2.0}"][-outputs:]
    rising = "drop_path_rate: {'0': 0.0, '2': 0.4, between: linear}"
    cfg = load_config(
        experiment,
        [
            f"model.architecture={BACKBONE[family]}, {rising}}}",
            f"model.head={head}",
            f"+task={{name: ClassificationTask, weights: [{', '.join(weights)}]}}",
            f"dataloader.train.dataset.transforms={TRANSFORMS}",
            "epochs=4",
            "eval_interval=4",
        ],
    )
    trainer = Trainer(cfg, tmp_path / "run", World())
    rates, pictures = [], {}

    def look(epoch: int) -> None:
        layers = [layer for layer in trainer.model.sublayers() if isinstance(layer, DropPath)]
        rates.append([layer.rate for layer in layers])

    task = trainer.task.step

    def see(model, batch):
        for index, image in zip(batch["index"].tolist(), batch["image"].numpy(), strict=True):
            pictures.setdefault(len(rates) - 1, {})[index] = image
        return task(model, batch)

    trainer.schedules = (*trainer.schedules, look)
    trainer.task.step = see
    trainer.fit()
    parts = np.array([0, 1, 2]) / (3 if family == "PiT" else 2)
    np.testing.assert_allclose(rates, np.outer([0.0, 0.2, 0.4, 0.4], parts), rtol=1e-12)
    changed = [
        np.mean([np.abs(pictures[epoch][i] - pictures[0][i]).mean() for i in range(24)]) for epoch in range(4)
    ]
    assert changed[0] == 0 < changed[1] < min(changed[2:])
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert len(rows) == 12
    for row in rows:
        first, second = {1: (1.0, 0.5), 2: (0.5, 0.5), 3: (0.0, 2.0), 4: (0.0, 2.0)}[row["epoch"]]
        expected = second * row["loss_0"]
        if outputs == 2:
            expected = first * row["loss_0"] + second * row["loss_1"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_backbone_that_schedules_nothing_keeps_its_rates():
    """One written outside, say, that sets them itself."""

    class Own(Backbone):
        def __init__(self):
            super().__init__()
            self.drop_path = DropPath(0.3)

    backbone = Own()
    backbone.set_epoch(1)
    assert backbone.drop_path.rate == 0.3
