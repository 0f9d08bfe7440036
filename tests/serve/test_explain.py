"""Maps from the server, and beside the classes on its page."""

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

from passl_sot import Predictor
from passl_sot.serve.errors import ApiError
from passl_sot.serve.explained import require_maps
from passl_sot.serve.hosted import Loaded
from passl_sot.vis.pixels import fitted
from passl_sot.vis.relevance import methods_of
from passl_sot.vis.subject import Subject
from tests.serve.test_page import cards, give, page, text  # noqa: F401
from tests.serve.test_texts import text_server  # noqa: F401

pytestmark = pytest.mark.slow


def test_an_image_comes_with_a_map_of_what_it_is_taken_for(server, ask, images, tiny):
    predictor = Predictor(tiny)
    subject = Subject("tiny", predictor.model, predictor.task, {})
    assert ask(server, "GET", "/model").json["maps"]
    answer = ask(server, "POST", "/explain", [images[0], b"<svg/>", images[1]])
    assert answer.status == 200
    first, broken, second = answer.json["explanations"]
    assert broken["error"].startswith("1: not an image") and broken["picture"] is None
    for row, data in ((first, images[0]), (second, images[1])):
        (predicted,) = predictor(data)
        assert (row["name"], row["index"], row["method"]) == (
            predicted.names[0],
            predicted.classes[0],
            methods_of(predictor.model)[0],
        )
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["picture"])))).astype(float)
        picture = fitted(subject.picture(predictor.read(data)))
        assert shown.shape == picture.shape
        # The image shows through half.
        assert np.corrcoef(shown.mean(axis=2).ravel(), picture.mean(axis=2).ravel())[0, 1] > 0.2
    assert ask(server, "POST", "/explain", [b"<svg/>"]).json["error"]["code"] == "unreadable_image"


def test_texts_come_in_words(text_server, ask):  # noqa: F811
    given = ["the cat sat on 它", ["in town", "at the sea"]]
    single, pair = ask(text_server, "POST", "/explain", {"texts": given}).json["explanations"]
    assert ["".join(word["text"] for word in words) for words in single["words"]] == given[:1]
    assert ["".join(word["text"] for word in words) for words in pair["words"]] == given[1]
    values = [word["value"] for words in single["words"] for word in words if word["value"] is not None]
    assert (min(values), max(values), len(values)) == (0, 1, 5)
    assert single["name"] in ("动物", "place", "time") and single["picture"] is None


def test_an_export_has_no_gradients(trained_text):
    loaded = Loaded(Predictor(trained_text.folder), "text", "export", time.time(), ())
    with pytest.raises(ApiError, match="export runs on paddle without gradients") as caught:
        require_maps(loaded)
    assert (caught.value.status_code, caught.value.code) == (422, "no_maps")


def test_the_page_shows_maps_beside_the_classes(page, images):  # noqa: F811
    page.find_element("css selector", "#maps").click()
    give(page, "drop", "a.png", images[2])
    (card,) = cards(page, 1)
    shown = card.find_elements("tag name", "img")
    assert len(shown) == 2 and page.execute_script("return arguments[0].naturalWidth >= 100", shown[1])
    first = card.find_element("css selector", "li .name").text
    assert text(page, ".seen") == f"what speaks for {first} (grad_sam)" == shown[1].get_attribute("alt")
    assert not card.find_elements("css selector", '[role="alert"], .wait')
    sides = page.execute_script("return [...arguments[0].children].map((c) => c.offsetLeft)", card)
    assert sides == sorted(set(sides)) and len(sides) == 3


def test_the_page_shows_words_in_colours(browser, text_server):  # noqa: F811
    browser.get(text_server.url)
    browser.find_element("css selector", "#text")
    browser.execute_script("document.getElementById('maps').checked = true")
    browser.execute_script(
        "document.getElementById('text').value = 'the cat sat on 它';"
        "document.getElementById('text-form').requestSubmit()"
    )
    (card,) = cards(browser, 1)
    words = card.find_elements("css selector", ".map span")
    assert [word.text for word in words] == ["the", "cat", "sat", "on", "它"]
    grounds = [word.value_of_css_property("background-color") for word in words]
    assert len(set(grounds)) > 2
