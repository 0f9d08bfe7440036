"""Pages of pictures and tables, as text and in a real browser."""

import base64
import re

import numpy as np
import pytest

from passl_sot.utils.figure import new_figure
from passl_sot.vis.page import Page, png


@pytest.fixture
def page() -> Page:
    page = Page("Maps of <model> 丹顶鹤", "first line\nsecond & last")
    page.section("Pictures", "of every kind")
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    page.figure(red, "red <b>", right=True, width=60)
    page.figure(png(np.zeros((5, 5), np.uint8)), "gray", right=False, alt="a gray square")
    page.figure(new_figure(2, 1), "chart")
    page.section("Numbers", "of every kind")
    page.table(
        ["name", "n", "score", "right"], [["猫", 3, 0.123456, True], ["\udc80", None, None, False]], "T"
    )
    return page


def test_texts_are_no_markup_and_numbers_are_short(page, tmp_path):
    page.save(tmp_path / "new" / "p.html")
    text = (tmp_path / "new" / "p.html").read_text(encoding="utf-8")
    assert "<title>Maps of &lt;model&gt; 丹顶鹤</title>" in text and "red &lt;b&gt;" in text
    assert '<td class="number" dir="auto">0.1235</td>' in text and ">–<" in text and ">?<" in text
    assert "<nav>" not in text
    other = Page("")
    for heading in ("three", "four"):
        other.section(heading)
    page.extend(other)
    assert '<a href="#s5" dir="auto">four</a>' in page.html()
    # Nothing but data: no address of another file.
    assert not re.search(r"(src|href)=\"(?!data:image/|#s)|https?:|url\(|<script", text)


def test_a_picture_keeps_its_colours(page):
    import io

    from PIL import Image

    (first, *_) = re.findall(r"data:image/png;base64,([^\"]+)", page.html())
    image = Image.open(io.BytesIO(base64.b64decode(first)))
    assert (image.size, image.getpixel((0, 0))) == ((6, 4), (255, 0, 0))


@pytest.mark.slow
def test_a_browser_shows_it(page, browser, tmp_path):
    path = tmp_path / "p.html"
    page.save(path)
    browser.get(path.as_uri())
    sizes = browser.execute_script("return [...document.images].map((i) => [i.naturalWidth, i.width])")
    assert sizes == [[6, 60], [5, 5], [200, 200]]
    assert browser.find_element("css selector", "figcaption").text == "✓ red <b>"
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
