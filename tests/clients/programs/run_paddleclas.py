"""Run inside PaddleClas's environment: predicts files from folders laid out for it, the package unchanged."""

import json
import sys

import paddle
from paddleclas import PaddleClas

from ppcls_tools.paddleclas_folder import ONE_LINE


def main(task_file, result_file):
    with open(task_file) as file:
        jobs = json.load(file)
    results = []
    exec(ONE_LINE, {"paddle": paddle})
    for job in jobs:
        options = job["options"]
        if job["engine"] == "onnxruntime":
            options["override"].append("Global.use_onnx=True")
        model = PaddleClas(**options)
        rows = []
        for file in job["files"]:
            (row,) = next(model.predict(file))
            rows.append({key: list(map(str, row[key])) for key in ("class_ids", "scores", "label_names")})
        results.append(rows)
    with open(result_file, "w") as file:
        json.dump({"rows": results}, file)


main(*sys.argv[1:])
