"""What a server answers: the rows of `predict`, errors in one form, true descriptions and numbers."""

import base64
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from passl_sot import cli
from passl_sot.serve.app import PAGE, Predictions
from passl_sot.serve.errors import ErrorBody

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predicted(tiny, images, tmp_path_factory) -> list[dict]:
    """What `predict` writes about the images, by batches of nine and of one."""
    folder = tmp_path_factory.mktemp("predicted")
    paths = [folder / str(number) for number in range(len(images))]
    for path, data in zip(paths, images, strict=True):
        path.write_bytes(data)
    written = []
    for size in (9, 1):
        out = folder / f"rows{size}.json"
        words = ["--weights", tiny, *paths, "--out", out, "--batch-size", size]
        assert cli.COMMANDS["predict"]([str(word) for word in words]) == 0
        written.append(json.loads(out.read_text(encoding="utf-8")))
        for row in written[-1]:
            row["path"] = Path(row["path"]).name
    return written


def test_rows_are_those_of_predict_digit_for_digit(server, ask, images, predicted):
    together, alone = predicted
    answer = ask(server, "POST", "/predict", images)
    assert answer.status == 200
    assert answer.json["predictions"] == together
    texts = [base64.b64encode(data).decode() for data in images]
    plain = ask(server, "POST", "/predict", {"images": texts}).json["predictions"]
    assert plain == [row | {"path": ""} for row in together]
    for number, data in enumerate(images):
        assert ask(server, "POST", "/predict", [data]).json["predictions"] == [alone[number] | {"path": "0"}]
    # As text too: "digit for digit".
    assert json.dumps(together[0]["probabilities"], separators=(",", ":")) in answer.text
    assert "丹顶鹤" in answer.text


def test_so_many_classes_as_asked_for(server, ask, images, predicted):
    text = base64.b64encode(images[0]).decode()
    for top_k in (1, 2, 1000):
        (row,) = ask(server, "POST", "/predict", {"images": [text], "top_k": top_k}).json["predictions"]
        whole = predicted[1][0]
        assert row["classes"] == whole["classes"][:top_k]
        assert row["probabilities"] == whole["probabilities"][:top_k]


def test_an_unreadable_image_among_others_has_an_error_in_its_row(server, ask, images, predicted):
    rows = ask(server, "POST", "/predict", [images[0], b"<svg/>", images[0]]).json["predictions"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert rows[1] == {
        "path": "1",
        "classes": [],
        "names": [],
        "probabilities": [],
        "error": rows[1]["error"],
    }
    assert rows[1]["error"].startswith("1: not an image")
    assert rows[0]["names"] == rows[2]["names"] == predicted[0][0]["names"]


def test_messages_name_the_image(server, ask):
    for files, said in (
        ([b""], "0: the file is empty"),
        ({"images": ["", "aGk="]}, "images[0]: the file is empty"),
    ):
        answer = ask(server, "POST", "/predict", files)
        assert (answer.status, answer.json["error"]["code"]) == (422, "unreadable_image")
        assert answer.json["error"]["message"].startswith(said)


def test_images_of_many_clients_are_computed_together(server, ask, images, number):
    names = ("passl_sot_batch_size_sum", "passl_sot_batch_size_count")
    before = [number(server, name) for name in names]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: ask(server, "POST", "/predict", [images[k % 9]]), range(64)))
    assert {answer.status for answer in answers} == {200}
    pictures, batches = (number(server, name) - old for name, old in zip(names, before, strict=True))
    assert pictures == 64
    assert batches < 60


def test_metrics_count_what_happened(server, ask, images, number):
    def counts() -> list[float]:
        return [
            number(server, "passl_sot_requests_total", path="/predict", status="200"),
            number(server, "passl_sot_requests_total", path="/predict", status="415"),
            number(server, "passl_sot_requests_total", path="other", status="404"),
            number(server, "passl_sot_request_seconds_count", path="/predict"),
        ]

    before = counts()
    ask(server, "POST", "/predict", images[:2])
    ask(server, "POST", "/predict", "x", {"Content-Type": "text/plain"})
    ask(server, "GET", "/nowhere/../..%2f")
    assert [new - old for new, old in zip(counts(), before, strict=True)] == [1, 1, 1, 2]
    assert number(server, "passl_sot_queue_length") == 0
    assert number(server, "passl_sot_model_load_seconds") > 0
    assert number(server, "passl_sot_model_loads_total", result="loaded") == 1


def test_the_description_is_true(server, ask, images):
    described = ask(server, "GET", "/openapi.json").json
    assert set(described["paths"]) == {"/predict", "/explain", "/model", "/health", "/ready", "/metrics"}
    predict = described["paths"]["/predict"]["post"]
    content = predict["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    for kind in content.values():
        assert kind["schema"]["properties"]["images"]["maxItems"] == 12
        assert set(kind["schema"]["properties"]) == {"images", "top_k"}
    errors = {"400", "408", "413", "415", "422", "429", "500", "503", "504"}
    assert set(predict["responses"]) == {"200", *errors}
    for status in errors:
        schema = predict["responses"][status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    Predictions.model_validate(ask(server, "POST", "/predict", images).json)
    model = ask(server, "GET", "/model").json
    assert set(model) == set(described["components"]["schemas"]["ModelInfo"]["properties"])
    assert model["class_names"] == ["丹顶鹤", "金丝猴", "sot_digits: 7"]
    assert ask(server, "GET", "/health").json == {"status": "alive"}
    assert ask(server, "GET", "/ready").json == {"status": "ready"}


def test_commands_of_the_page(server, images, tmp_path):
    """As docs/serving.md writes them, but for the address."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = [line for line in re.findall(r"^curl .*", page, re.M) if "images" in line]
    assert len(commands) == 2
    (tmp_path / "photo.jpg").write_bytes(images[0])
    for command, count in zip(commands, (2, 1), strict=True):
        words = ["bash", "-c", command.replace("localhost:8000", server.address)]
        done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path)
        rows = json.loads(done.stdout)["predictions"]
        assert len(rows) == count and len(rows[0]["names"]) == 3


def test_nothing_is_loaded_from_elsewhere(server, ask):
    assert ask(server, "GET", "/docs").status == ask(server, "GET", "/redoc").status == 404
    page = ask(server, "GET", "/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//\w+\.", text), path
        assert (
            path.name == "index.html"
            or ask(server, "GET", f"/page/{path.name}").text == text
            or "svg" in path.name
        )


def test_no_other_page_may_read_answers(server, ask, images):
    foreign = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    for method in ("GET", "OPTIONS"):
        answer = ask(server, method, "/model", headers=foreign)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    for host in ("elsewhere.example", "elsewhere.example:80", "127.0.0.1.elsewhere.example", "", "[::1"):
        answer = ask(server, "POST", "/predict", [images[0]], {"Host": host})
        assert (answer.status, answer.json["error"]["code"]) == (400, "wrong_host"), host
    for host in ("localhost:9", "LOCALHOST", "127.0.0.1", "[::1]:8000"):
        assert ask(server, "GET", "/health", headers={"Host": host}).status == 200, host


BAD = [
    ("GET", "/nowhere", None, None, 404, "not_found"),
    ("GET", "/predict", None, None, 405, "method_not_allowed"),
    ("POST", "/health", None, None, 405, "method_not_allowed"),
    ("POST", "/predict", "x", "text/plain", 415, "unsupported_media_type"),
    ("POST", "/predict", "x", "", 415, "unsupported_media_type"),
    ("POST", "/predict", "images=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    ("POST", "/predict", "x", "multipart/form-data", 400, "bad_request"),
    ("POST", "/predict", "x", "multipart/form-data; boundary=b", 400, "bad_request"),
    ("POST", "/predict", "x", "multipart/form-data; boundary=" + "b" * 300, 400, "bad_request"),
    ("POST", "/predict", "", "application/json", 400, "bad_request"),
    ("POST", "/predict", "{", "application/json", 400, "bad_request"),
    ("POST", "/predict", b"\xff\xfe", "application/json", 400, "bad_request"),
    ("POST", "/predict", "{}", "application/json", 422, "invalid_value"),
    ("POST", "/predict", "[]", "application/json", 422, "invalid_value"),
    ("POST", "/predict", {"images": []}, None, 422, "invalid_value"),
    ("POST", "/predict", {"images": ["no base64!"]}, None, 422, "invalid_value"),
    ("POST", "/predict", {"images": ["é"]}, None, 422, "invalid_value"),
    ("POST", "/predict", {"images": [7]}, None, 422, "invalid_value"),
    ("POST", "/predict", {"images": ["aGk="], "top_k": 0}, None, 422, "invalid_value"),
    ("POST", "/predict", {"images": ["aGk="], "top_k": "two"}, None, 422, "invalid_value"),
    ("POST", "/predict", {"images": ["aGk="], "more": 1}, None, 422, "invalid_value"),
    ("POST", "/predict", {"images": ["aGk="]}, None, 422, "unreadable_image"),
    ("POST", "/predict", {"images": ["aGk="] * 13}, None, 413, "too_many_files"),
]


@pytest.mark.parametrize(("method", "path", "body", "kind", "status", "code"), BAD)
def test_bad_input_is_one_error(server, ask, method, path, body, kind, status, code):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = ask(server, method, path, body, headers)
    assert (answer.status, answer.json["error"]["code"]) == (status, code), answer.text
    assert len(ErrorBody.model_validate(answer.json).error.message) > 5
    assert answer.headers["content-type"] == "application/json"
