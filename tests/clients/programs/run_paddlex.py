"""Run inside PaddleX's environment: predicts files from exported folders."""

import json
import sys

import numpy as np
import paddlex

from ppcls_tools.paddlex import load, register


def main(task_file, result_file):
    with open(task_file) as file:
        jobs = json.load(file)
    results = []
    for job in jobs:
        options = {"engine": job["engine"], "topk": 5}
        if job["known"]:  # PaddleX as it is
            model = paddlex.create_model(model_name=job["known"], model_dir=job["folder"], **options)
        elif job["several"]:
            model = load(job["folder"], engine=job["engine"])
        else:
            model = load(job["folder"], **options)
        rows = []
        for result in model.predict(job["files"]):
            row = {key: list(map(str, result[key])) for key in ("scores", "label_names")}
            # Those of the whole batch, which has one image here.
            rows.append(row | {"class_ids": np.ravel(result["class_ids"]).tolist()})
        results.append(rows)
    complaints = []
    try:
        register("ResNet50")
    except ValueError as error:
        complaints.append(str(error))
    assert "passl_sot" not in sys.modules
    with open(result_file, "w") as file:
        json.dump({"rows": results, "complaints": complaints}, file)


main(*sys.argv[1:])
