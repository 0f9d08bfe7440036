"""A step forward and backward of every family in every head that configs are shipped for."""

import numpy as np
import paddle
import pytest

from passl_sot.config import find_dense_config
from tests.dense.test_pyramid import SMALL

pytest.importorskip("paddleseg", reason="no PaddleSeg")
pytest.importorskip("ppdet", reason="no PaddleDetection")
FAMILIES = ("stvit_small", "swin_tiny", "pit_ti", "deit_tiny", "t2t_vit_7", "sot_tiny", "so_vit_7")
SEGMENTERS = {
    "upernet": ["model.channels=32"],
    "semantic_fpn": ["+model.fpn_channels=32", "+model.channels=16"],
}
DETECTORS = {
    "mask_rcnn": ["1x", "+TwoFCHead.out_channel=32"],
    "cascade_mask_rcnn": ["3x", "+CascadeTwoFCHead.out_channel=32"],
}


def grown(model) -> list[str]:
    """Names of trainable parameters without a gradient, and with one that isn't finite."""
    # Offsets of boxes are learned where boxes overlap an object enough, which those of new weights may not.
    named = [(name, p.grad) for name, p in model.named_parameters() if not p.stop_gradient]
    named = [(name, grad) for name, grad in named if "bbox_delta" not in name]
    return [name for name, grad in named if grad is None or not np.isfinite(grad.numpy()).all()]


@pytest.mark.parametrize("head", SEGMENTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_a_segmenter(family, head):
    from passl_sot.dense.run import open_run

    backbone = [f"model.backbone.model={family}", f"+model.backbone.settings={SMALL[family]}"]
    config = find_dense_config(f"{head}_stvit_small_ade20k")
    model = open_run(config, [*backbone, *SEGMENTERS[head]]).build()
    model.train()
    logits = model(paddle.randn([2, 3, 96, 64]))
    assert {tuple(x.shape) for x in logits} == {(2, 150, 96, 64)}
    labels = paddle.randint(0, 150, [2, 96, 64])
    sum(paddle.nn.functional.cross_entropy(x, labels, axis=1) for x in logits).backward()
    assert grown(model) == []


@pytest.mark.parametrize("head", DETECTORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_a_detector(family, head):
    from passl_sot.dense.run import open_run

    schedule, *small = DETECTORS[head]
    backbone = [f"PasslSotPyramid.model={family}", f"+PasslSotPyramid.settings={SMALL[family]}"]
    small += ["FPN.out_channel=16", "MaskFeat.out_channel=16", "BBoxAssigner.batch_size_per_im=16"]
    config = find_dense_config(f"{head}_stvit_small_{schedule}_coco")
    model = open_run(config, [*backbone, *small]).build()
    model.train()
    square = np.array([[8.0, 8.0, 40.0, 8.0, 40.0, 40.0, 8.0, 40.0]], np.float32)
    batch = {
        "image": paddle.randn([2, 3, 64, 96]),
        "im_id": paddle.to_tensor([[0], [1]]),
        "im_shape": paddle.to_tensor([[64.0, 96.0]] * 2),
        "scale_factor": paddle.ones([2, 2]),
        "gt_bbox": [paddle.to_tensor([[8.0, 8.0, 40.0, 40.0]])] * 2,
        "gt_class": [paddle.to_tensor([[3]], "int32")] * 2,
        "is_crowd": [paddle.to_tensor([[0]], "int32")] * 2,
        "gt_poly": [[square]] * 2,
        "epoch_id": 0,
    }
    model(batch)["loss"].backward()
    assert grown(model) == []
