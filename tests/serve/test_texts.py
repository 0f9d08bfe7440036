"""A server of a model of texts: the rows of `predict`, errors in one form, true descriptions, its page."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from passl_sot import Predictor
from passl_sot.serve.app import TextPredictions
from passl_sot.serve.errors import ErrorBody
from tests.serve.test_page import contrast, text, wait

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow
TEXTS = ["the cat sat on the mat", "in the town", "", "two days and a long day on that sea: it was", "猫 坐"]
PAIR = ["the cat", "sat on a mat"]


@pytest.fixture(scope="session")
def text_server(serving, trained_text):
    """A server of texts with limits that tests can reach."""
    limits = ("--max-files", 12, "--max-request-mb", 2, "--max-characters", 300, "--timeout", 600)
    with serving.serving(trained_text.checkpoint, *limits) as running:
        yield running


def test_rows_are_those_of_predict_digit_for_digit(text_server, ask, trained_text):
    wanted = [vars(row) for row in Predictor(trained_text.checkpoint)(TEXTS)]
    answer = ask(text_server, "POST", "/predict", {"texts": TEXTS})
    assert answer.status == 200
    assert answer.json["predictions"] == wanted
    assert "动物" in answer.text
    for top_k in (1, 2, 1000):
        (row,) = ask(text_server, "POST", "/predict", {"texts": TEXTS[:1], "top_k": top_k}).json[
            "predictions"
        ]
        assert row["names"] == wanted[0]["names"][:top_k] and row["text"] == TEXTS[0]
    one, two = ask(text_server, "POST", "/predict", {"texts": [PAIR, PAIR[0]]}).json["predictions"]
    assert (one["text"], one["text_pair"], two["text_pair"]) == (*PAIR, "")
    assert one["probabilities"] != two["probabilities"]


def test_texts_of_many_clients_and_lengths_are_computed_together(text_server, ask, number):
    names = ("passl_sot_batch_size_sum", "passl_sot_batch_size_count")
    before = [number(text_server, name) for name in names]
    texts = ["the cat " * (1 + k % 12) for k in range(48)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda t: ask(text_server, "POST", "/predict", {"texts": [t]}), texts))
    assert {answer.status for answer in answers} == {200}
    found = [answer.json["predictions"][0]["probabilities"] for answer in answers]
    for k in range(12):
        assert found[k] == pytest.approx(found[k + 12], abs=1e-5)
    items, batches = (number(text_server, name) - old for name, old in zip(names, before, strict=True))
    assert (items, batches < 47) == (48, True)


BAD = [
    ("x", "text/plain", 415, "unsupported_media_type"),
    ("x", "multipart/form-data; boundary=b", 415, "unsupported_media_type"),
    ("", "application/json", 400, "bad_request"),
    ('{"texts": ["\\ud800"]}', "application/json", 400, "bad_request"),
    ({}, None, 422, "invalid_value"),
    ({"texts": []}, None, 422, "invalid_value"),
    ({"texts": "one"}, None, 422, "invalid_value"),
    ({"texts": [7]}, None, 422, "invalid_value"),
    ({"texts": [["a"]]}, None, 422, "invalid_value"),
    ({"texts": [["a", "b", "c"]]}, None, 422, "invalid_value"),
    ({"texts": ["a"], "top_k": 0}, None, 422, "invalid_value"),
    ({"texts": ["a"], "more": 1}, None, 422, "invalid_value"),
    ({"images": ["aGk="]}, None, 422, "wrong_kind"),
    ({"texts": ["a"] * 13}, None, 413, "too_many_texts"),
    ({"texts": ["a"] * 1000}, None, 413, "too_many_texts"),
    ({"texts": ["a" * 301]}, None, 413, "too_many_characters"),
    ({"texts": [["a", "b" * 301]]}, None, 413, "too_many_characters"),
    ({"texts": ["a" * 2_100_000]}, None, 413, "request_too_large"),
    ('{"texts": [' + "[" * 1000, "application/json", 422, "invalid_value"),
    ('{"top_k": [' + "1," * 1000, "application/json", 422, "invalid_value"),
]


@pytest.mark.parametrize(("body", "kind", "status", "code"), BAD)
def test_bad_input_is_one_error(text_server, ask, body, kind, status, code):
    answer = ask(text_server, "POST", "/predict", body, {} if kind is None else {"Content-Type": kind})
    assert (answer.status, answer.json["error"]["code"]) == (status, code), answer.text
    assert len(ErrorBody.model_validate(answer.json).error.message) > 5


def test_marks_of_json_in_texts_are_no_structure(text_server, ask):
    odd = ['{"images": [[[,,,' * 10, '\\"' * 40, "\\" * 99, ',"' * 90]
    answer = ask(text_server, "POST", "/predict", {"texts": odd})
    assert [row["text"] for row in answer.json["predictions"]] == odd


def test_texts_for_a_model_of_images_are_one_error(server, ask):
    for texts in (["a"], ["a, b, c"] * 500):
        answer = ask(server, "POST", "/predict", {"texts": texts})
        assert (answer.status, answer.json["error"]["code"]) == (422, "wrong_kind")
        assert answer.json["error"]["message"].startswith("a model of images is in service: send")


def test_the_description_is_true(text_server, ask):
    described = ask(text_server, "GET", "/openapi.json").json
    predict = described["paths"]["/predict"]["post"]
    content = predict["requestBody"]["content"]
    assert set(content) == {"application/json"}
    assert set(content["application/json"]["schema"]["properties"]) == {"texts", "top_k"}
    assert content["application/json"]["schema"]["properties"]["texts"]["maxItems"] == 12
    schema = predict["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/TextPredictions"}
    TextPredictions.model_validate(ask(text_server, "POST", "/predict", {"texts": TEXTS}).json)
    model = ask(text_server, "GET", "/model").json
    assert (model["kind"], model["max_characters"]) == ("text", 300)
    assert model["class_names"] == ["动物", "place", "time"]


def test_a_model_of_images_takes_no_place_of_one_of_texts(serving, ask, trained_text, tiny, tmp_path):
    place = tmp_path / "best.safetensors"
    place.write_bytes(trained_text.checkpoint.read_bytes())
    with serving.serving(place, "--watch", 0.2, "--timeout", 600) as running:
        new = tmp_path / "new"
        new.write_bytes(tiny.read_bytes())
        new.rename(place)
        fault = ""
        while not fault:
            fault = ask(running, "GET", "/model").json["fault"]
        assert "takes images, and a model of texts is in service: start another server" in fault
        assert ask(running, "POST", "/predict", {"texts": ["the cat"]}).status == 200


def test_the_command_of_the_page(text_server):
    """As docs/serving.md writes it, but for the address."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (command,) = [line for line in re.findall(r"^curl .*", page, re.M) if "texts" in line]
    words = ["bash", "-c", command.replace("localhost:8000", text_server.address)]
    rows = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)["predictions"]
    assert [len(row["names"]) for row in rows] == [3, 3]


def test_the_page_has_boxes_for_a_text_and_a_second(browser, text_server, ask, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    browser.get(text_server.url)
    wait(browser, lambda: "classes" in text(browser, "#facts"))
    box, pair = (browser.find_element("css selector", name) for name in ("#text", "#pair"))
    assert box.is_displayed() and not browser.find_element("css selector", "#files").is_displayed()
    assert (box.accessible_name, pair.accessible_name) == ("Text", "Second text, for a model of pairs")
    assert "300 characters" in text(browser, "#text-limits")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.get_attribute("id") == "text"
    box.send_keys("the cat <b>sat</b>")
    browser.find_element("css selector", "button").click()
    cards = 'article[aria-busy="false"]'
    wait(browser, lambda: len(browser.find_elements("css selector", cards)) == 1)
    pair.send_keys("on the mat", Keys.CONTROL, Keys.ENTER)
    wait(browser, lambda: len(browser.find_elements("css selector", cards)) == 2)
    asked = [["the cat <b>sat</b>", "on the mat"], "the cat <b>sat</b>"]
    titles = ["the cat <b>sat</b> | on the mat", "the cat <b>sat</b>"]
    for card, title, given in zip(browser.find_elements("css selector", cards), titles, asked, strict=True):
        (row,) = ask(text_server, "POST", "/predict", {"texts": [given]}).json["predictions"]
        assert card.find_element("tag name", "h2").text == title
        shown = [item.text.split("\n")[0] for item in card.find_elements("tag name", "li")]
        assert shown == row["names"]
    assert text(browser, "#status") == "2 texts answered"
    box.clear()
    browser.execute_script("arguments[0].value = 'x'.repeat(301)", box)
    browser.find_element("css selector", "button").click()
    wait(browser, lambda: browser.find_elements("css selector", '[role="alert"]'))
    assert "300" in text(browser, '[role="alert"]')
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        for selector in ("h1", "label", "button", "#text", "#text-limits", "h2", ".name"):
            assert contrast(browser, selector) >= 4.5, (scheme, selector)
        browser.save_screenshot(str(tmp_path / f"{scheme}.png"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
