"""The page in a real browser: choosing, dropping and pasting images, errors, keyboard, and no other host."""

import base64
from pathlib import Path

import pytest

# Gives the page files as another program would: by a drop or from the clipboard.
GIVE = """
const [kind, name, text] = arguments;
const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type: "image/png" }));
const details = { bubbles: true, cancelable: true };
document.dispatchEvent(
  kind === "paste"
    ? new ClipboardEvent(kind, { ...details, clipboardData: data })
    : new DragEvent(kind, { ...details, dataTransfer: data })
);
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def page(browser, server):
    """The page, loaded anew, when it knows its model."""
    browser.get(server.url)
    wait(browser, lambda: "classes" in text(browser, "#facts"))
    return browser


def text(browser, selector: str) -> str:
    return browser.find_element("css selector", selector).text


def wait(browser, what) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 120).until(lambda _: what())


def cards(browser, count: int) -> list:
    """The cards of so many images, newest first, when all are answered."""
    wait(browser, lambda: len(browser.find_elements("css selector", 'article[aria-busy="false"]')) == count)
    return browser.find_elements("css selector", "article")


def give(browser, kind: str, name: str, data: bytes) -> None:
    browser.execute_script(GIVE, kind, name, base64.b64encode(data).decode())


def choose(browser, *paths: Path) -> None:
    browser.find_element("css selector", "#files").send_keys("\n".join(map(str, paths)))


def test_the_header_tells_what_is_served(page):
    assert text(page, "#name") == page.title
    assert page.title.endswith("/tiny")
    assert text(page, "#facts") == "paddle, f32 · 3 classes"
    assert "2 MB" in text(page, "#limits")


def test_chosen_dropped_and_pasted_images_are_predicted(page, server, ask, images, tmp_path):
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(images[number])
    choose(page, tmp_path / "0.png", tmp_path / "1.png")
    cards(page, 2)
    give(page, "drop", "掉落.png", images[2])
    cards(page, 3)
    give(page, "paste", "pasted.png", images[3])
    shown = {card.find_element("tag name", "h2").text: card for card in cards(page, 4)}
    assert set(shown) == {"0.png", "1.png", "掉落.png", "pasted.png"}
    for name, number in (("0.png", 0), ("1.png", 1), ("掉落.png", 2), ("pasted.png", 3)):
        (row,) = ask(server, "POST", "/predict", [images[number]]).json["predictions"]
        items = [item.text.split("\n") for item in shown[name].find_elements("tag name", "li")]
        assert items == [
            [label, f"{100 * p:.2f} %"] for label, p in zip(row["names"], row["probabilities"], strict=True)
        ]
        widths = page.execute_script(
            "return [...arguments[0].querySelectorAll('.bar div')].map("
            "(bar) => bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width)",
            shown[name],
        )
        assert widths == pytest.approx(row["probabilities"], abs=0.01)
        picture = shown[name].find_element("tag name", "img")
        assert picture.get_attribute("alt") == name
        assert page.execute_script("return arguments[0].naturalWidth > 0", picture)
    assert "丹顶鹤" in text(page, "#results")
    assert text(page, "#status") == "4 images answered"


def test_errors_are_said_where_they_belong(page, tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(bytes(2_100_000))
    name = "<img src=x onerror=alert(1)>.png"
    give(page, "drop", name, b"<html>")
    cards(page, 1)
    choose(page, large)
    faults = [card.find_element("css selector", '[role="alert"]').text for card in cards(page, 2)]
    assert faults == [
        "the file is larger than 2 MB",
        f"{name}: not an image but an HTML, XML or SVG page, as a failed download leaves behind",
    ]
    assert not page.find_elements("css selector", "article h2 img")


def test_a_keyboard_reaches_what_there_is(page, images):
    from selenium.webdriver import ActionChains, Keys

    ActionChains(page).send_keys(Keys.TAB).perform()
    focused = page.switch_to.active_element
    assert focused.get_attribute("id") == "files"
    assert focused.accessible_name == "Images: drop them here, paste them, or choose files"
    give(page, "drop", "a.png", images[0])
    cards(page, 1)
    roles = page.execute_script("return [...document.querySelectorAll('[role]')].map((one) => one.role)")
    assert roles == ["status"]
    assert page.find_element("tag name", "html").get_attribute("lang") == "en"


def test_light_and_dark_are_legible(page, images, tmp_path):
    give(page, "drop", "a.png", images[0])
    cards(page, 1)
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        for selector in ("h1", "#facts", "h2", ".name", ".share"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
        page.save_screenshot(str(tmp_path / f"{scheme}.png"))
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(browser, selector: str) -> float:
    """Ratio of luminances of a text and what is behind it (WCAG 2.1)."""
    colors = browser.execute_script(
        """
        let one = document.querySelector(arguments[0]);
        const found = [getComputedStyle(one).color];
        while (one && getComputedStyle(one).backgroundColor === "rgba(0, 0, 0, 0)") one = one.parentElement;
        return [...found, getComputedStyle(one).backgroundColor];
        """,
        selector,
    )
    lights = []
    for color in colors:
        parts = [int(part) / 255 for part in color[4:-1].split(",")[:3]]
        parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_no_request_leaves_the_host(page, server, images, requested):
    requested()
    page.get_log("browser")
    page.get(server.url)
    wait(page, lambda: "classes" in text(page, "#facts"))
    give(page, "drop", "a.png", images[0])
    cards(page, 1)
    asked = requested()
    assert f"{server.url}/predict" in asked
    assert not [url for url in asked if not url.startswith((f"{server.url}/", "blob:", "data:"))]
    # Neither did the policy have to forbid anything, nor was anything missing.
    assert page.get_log("browser") == []
    # It would: a script of the page can't reach elsewhere.
    blocked = page.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.2:9/').then(() => done(''), () => {});"
        "document.addEventListener('securitypolicyviolation', (event) => done(event.violatedDirective))"
    )
    assert blocked == "connect-src"
