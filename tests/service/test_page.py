"""The page for people, in a real browser."""

import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.process import Server, is_taken
from service.serve import KEYS
from training.registry import Version

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
PHONE = {"width": 360, "height": 740}
REVIEW = "A quiet, moving film 🎬 with a wonderful cast, but the ending is a waste of time."


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, server: Server) -> Iterator[Page]:
    """The page, open; the test fails on a script's error, and on a request that would leave the service."""
    page = chromium.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None
    )
    page.on("request", lambda request: None if request.url.startswith(server.url) else faults.append(request.url))
    page.goto(server.url)
    yield page
    page.close()
    assert [fault for fault in faults if not fault.startswith("data:")] == []


def judge(page: Page, review: str) -> None:
    page.get_by_label("A film review").fill(review)
    page.get_by_role("button", name="Judge it").click()
    expect(page.locator("#result")).to_be_visible()


def test_a_review_gets_its_label_its_probability_and_the_version(page: Page, server: Server, champion: Version):
    judge(page, REVIEW)

    answer = server.predict(REVIEW)
    expect(page.locator("#label")).to_have_text(answer["label"].capitalize())
    expect(page.locator("#percent")).to_have_text(f"{round(answer['positive'] * 1000) / 10:g} % likely to be positive")
    expect(page.locator("#version")).to_have_text(str(champion.number))
    assert float(page.locator("#meter").evaluate("meter => meter.value")) == pytest.approx(answer["positive"])


def test_the_words_that_moved_it_are_marked_where_they_stand(page: Page):
    judge(page, REVIEW)

    assert page.locator("#marked").text_content() == REVIEW, "the text itself is unchanged"
    against = "".join(page.locator("#marked mark.against").all_text_contents())
    in_favour = "".join(page.locator("#marked mark.for").all_text_contents())
    assert "waste" in against
    assert "wonderful" in in_favour
    assert "moving" in in_favour


def test_the_strongest_words_are_listed(page: Page):
    judge(page, REVIEW)
    page.get_by_text("What moved it most").click()

    shares = [
        float(text.replace("\N{MINUS SIGN}", "-")) for text in page.locator("#terms td:last-child").all_text_contents()
    ]

    assert len(shares) == 10
    assert [abs(share) for share in shares] == sorted(map(abs, shares), reverse=True)


def test_it_works_by_keyboard_alone(page: Page):
    page.keyboard.type("A dull waste of time.")
    page.keyboard.press("Control+Enter")

    expect(page.locator("#label")).to_have_text("Negative")

    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first example

    expect(page.locator("#label")).to_have_text("Positive")


def test_a_text_is_shown_as_text(page: Page):
    judge(page, "<img src=x onerror=alert(1)> a <b>dull</b> film")

    assert page.locator("#marked img, #marked b").count() == 0
    assert page.locator("#marked").text_content() == "<img src=x onerror=alert(1)> a <b>dull</b> film"


def test_a_refusal_is_said(page: Page):
    page.get_by_label("A film review").fill("   ")
    page.evaluate("document.getElementById('form').requestSubmit()")

    expect(page.get_by_role("alert")).to_contain_text("the text is empty")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(page: Page, scheme: Literal["light", "dark"]):
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.emulate_media(color_scheme=scheme)
    judge(page, REVIEW)

    ink, paper = (luminance(page, colour) for colour in ("color", "backgroundColor"))

    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 7, "WCAG 2.2, contrast (enhanced)"
    assert (paper < ink) == (scheme == "dark")
    assert page.get_by_role("button", name="Judge it").bounding_box()["height"] >= 40  # pyright: ignore


def luminance(page: Page, colour: str) -> float:
    """Relative luminance of the body's colour, 0 to 1 (WCAG 2.2, relative luminance)."""
    rgb = page.evaluate(f"getComputedStyle(document.body).{colour}.match(/[\\d.]+/g).slice(0, 3).map(Number)")
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.fixture(scope="module")
def keyed(fetched: Path, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for the key `secret`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEYS, sha256(b"secret").hexdigest())
        server = Server(fetched, free_port(), tmp_path_factory.mktemp("keyed") / "log")
    while not is_taken(int(server.url.rpartition(":")[2])):
        assert server.process.poll() is None
        time.sleep(0.05)
    yield server
    server.stop()


def test_with_keys_it_asks_for_one(chromium: Browser, keyed: Server):
    page = chromium.new_page()
    page.goto(keyed.url)
    page.get_by_label("A film review").fill("A wonderful film")
    page.get_by_role("button", name="Judge it").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter an API key")
    page.get_by_label("This service asks for an API key").fill("secret")
    page.keyboard.press("Enter")

    expect(page.locator("#label")).to_have_text("Positive")

    page.goto(f"{keyed.url}/docs")
    expect(page.locator("[data-path='/predict']")).to_be_visible()
    page.close()


def test_the_api_s_page_says_so_when_it_wants_a_key(chromium: Browser, keyed: Server):
    page = chromium.new_page()
    page.goto(f"{keyed.url}/docs")

    expect(page.locator("#api")).to_contain_text("asks for an API key")
    page.close()


def test_words_that_nobody_knows_are_said_to_be_unknown(page: Page):
    judge(page, "xqzt zzzq")

    expect(page.locator("#unknown")).to_be_visible()


def test_the_api_s_page_shows_every_endpoint_and_needs_nothing_from_elsewhere(page: Page, server: Server):
    page.goto(f"{server.url}/docs")

    for path in ("/predict", "/predict_batch", "/explain", "/stream", "/model"):
        expect(page.locator(f"[data-path='{path}']")).to_be_visible()
