"""Run inside PaddleClas's environment: saves weights and logits of its models, and loads ours into them."""

import json
import sys

import numpy as np
import paddle
from paddleclas.ppcls.arch import backbone
from paddleclas.ppcls.arch.backbone.legendary_models.swin_transformer import SwinTransformer
from paddleclas.ppcls.arch.backbone.model_zoo.distilled_vision_transformer import DistilledVisionTransformer
from paddleclas.ppcls.arch.backbone.model_zoo.vision_transformer import VisionTransformer
from paddleclas.ppcls.utils.save_load import load_dygraph_pretrain

CLASSES = {
    "ViT": VisionTransformer,
    "Distilled": DistilledVisionTransformer,
    "Swin": SwinTransformer,
}


def logits(model, images):
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(images)).numpy().tolist()


def main(task_file, result_file):
    with open(task_file) as file:
        cases = json.load(file)
    results = {}
    for name, case in cases.items():
        make = CLASSES.get(case["class"]) or getattr(backbone, case["class"])
        images = np.load(case["images"])
        paddle.seed(1)
        model = make(**case["arguments"])
        for parameter in model.parameters():
            parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
        paddle.save(model.state_dict(), case["theirs"])
        results[name] = {"theirs": logits(model, images)}
        given = paddle.load(case["ours"])
        missing, unexpected = make(**case["arguments"]).set_state_dict(given)
        other = make(**case["arguments"])
        load_dygraph_pretrain(other, case["ours"].removesuffix(".pdparams"))
        results[name] |= {"ours": logits(other, images), "missing": missing, "unexpected": unexpected}
    with open(result_file, "w") as file:
        json.dump(results, file)


main(*sys.argv[1:])
