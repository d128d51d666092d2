"""The built book in a real browser, from files, without a network.

Skips where there is no built book or no Chromium with its driver (Debian: apt-get install chromium
chromium-driver). `make browse` sets NOISYLABELS_BROWSER=needed: then what is missing is a failure.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

import address
import build
import links

ROOT = Path(__file__).resolve().parents[1]
BOOK = Path(os.environ.get("NOISYLABELS_BOOK", ROOT / "_build" / "html"))
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}
NEAR = 100  # pixels between the upper edge of the window and the heading that a link names
KNOWN = re.compile(  # the theme's own: a name declared twice; fonts that files may not load, of
    r"THEBE_JS_URL|/fontawesome/|invalid theme mode: \.")  # which it has drawings; a first visit
PICTURE_FILE = re.compile(r"\S+\.(png|svg|jpe?g|gif|webp)", re.I)


def absent(reason):
    """Skip, or fail where the browser is asked for."""
    (pytest.fail if os.environ.get("NOISYLABELS_BROWSER") == "needed" else pytest.skip)(reason)


@pytest.fixture(scope="module")
def book():
    """The pages of the built book: path -> what stands in it."""
    if not (BOOK / "index.html").is_file():
        absent("there is no built book; make book")
    if "NOISYLABELS_BOOK" not in os.environ:
        shell = ROOT / "_build" / "shell"
        now = build.digest(ROOT, *build.SHELL)
        if not shell.is_file() or shell.read_text() != now or build.out_of_date(ROOT):
            absent("the built book is older than its sources; make book")
    return links.pages(BOOK)


@pytest.fixture(scope="module")
def pages(book):
    """The pages that the book's table of contents lists."""
    listed = [BOOK / f"{page}.html" for page in build.toc_pages(ROOT)]
    return {path: book[path] for path in listed if path in book}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="the extra `test` is missing")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser",
                                                   "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        absent("there is no Chromium with its driver (chromium, chromedriver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "disable-dev-shm-usage", "hide-scrollbars",
                 f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options, webdriver.ChromeService(driver))
    session.set_page_load_timeout(120)
    session.set_script_timeout(120)
    yield session
    session.quit()


@pytest.fixture(params=WIDTHS)
def window(request, chromium):
    width, height = WIDTHS[request.param]
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1,
        "mobile": request.param == "phone"})
    return chromium


def show(browser, path, anchor=""):
    """Open a page afresh and wait until its formulas are set and it no longer scrolls (the theme
    scrolls smoothly): where it then stands is where a reader finds it."""
    browser.get("about:blank")
    browser.get(path.resolve().as_uri() + (f"#{anchor}" if anchor else ""))
    browser.execute_async_script("""
        const done = arguments[0];
        let last = -1, still = 0;
        const rest = () => { const now = document.scrollingElement.scrollTop;
          still = now === last ? still + 1 : 0; last = now;
          still > 3 ? done() : setTimeout(() => requestAnimationFrame(rest), 100); };
        const set = window.MathJax && MathJax.startup && MathJax.startup.promise;
        Promise.resolve(set).then(rest, rest);""")


def distance(browser, anchor):
    """Pixels from the window's upper edge to the heading; 0 where the page ends before it can get
    there and the heading is in sight."""
    return browser.execute_script("""
        const place = document.getElementById(arguments[0]);
        const heading = place.querySelector('h1, h2, h3, h4') || place;
        const y = heading.getBoundingClientRect().top, page = document.scrollingElement;
        const end = page.scrollTop + innerHeight >= page.scrollHeight - 2;
        return end && y >= 0 && y < innerHeight ? 0 : y""", anchor)


# ---------------------------------------------------------------------------- without a browser


def test_no_link_inside_the_book_is_dead(book):
    assert links.dead(BOOK, book) == []


def test_every_picture_has_a_size_and_words(pages):
    assert sum(len(page.pictures) for page in pages.values()) >= 10
    for path, page in pages.items():
        for told in page.pictures:
            said = told.get("alt") or ""
            assert said.strip() and not PICTURE_FILE.fullmatch(said), (path.name, said)
            assert int(told["width"]) > 0 and int(told["height"]) > 0, (path.name, said)
            assert told.get("loading") != "lazy", (path.name, said)


def test_every_page_says_what_it_was_built_from(pages):
    told = {re.search(r"Built from commit (unknown|[0-9a-f]{10}\+? of \d{4}-\d\d-\d\d)\.",
                      path.read_text())[0] for path in pages}
    assert len(told) == 1


def test_links_to_the_project_lead_to_its_address_or_into_the_book(book, pages):
    known = address.public_address(ROOT)
    outside = {link for page in book.values() for link in page.links if links.outside(link)}
    buttons = [x for x in outside if re.search(r"colab\.|mybinder\.|/issues/new|/blob/|/edit/", x)]
    if known:
        owner = known.removeprefix("https://").split("/", 1)[1]
        assert buttons and all(owner in link for link in buttons)
    else:
        assert buttons == []
        assert [x for x in outside if "noisylabels" in x] == []
        assert any("_sources/lib/" in link for page in pages.values() for link in page.links)


def test_the_configuration_names_no_address_but_the_one():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["repository"]["url"] == address.public_address(ROOT)


# ------------------------------------------------------------------------------- in the browser


def test_a_link_lands_at_its_heading(pages, window):
    missed, tried = [], 0
    for path, page in pages.items():
        under = page.sections[1:]  # the first is the page's title
        deep = [under[len(under) * part // 4] for part in (2, 3) if under]
        for anchor in dict.fromkeys(deep):
            show(window, path, anchor)
            tried += 1
            if not -1 <= (y := distance(window, anchor)) <= NEAR:
                missed.append(f"{path.name}#{anchor}: {y:.0f} px")
    assert tried >= len(pages)
    assert missed == []


def test_no_page_complains_or_scrolls_sideways(pages, window):
    said, wide, gone = {}, {}, {}
    window.get_log("browser")
    for path in pages:
        show(window, path)
        said[path.name] = [e["message"] for e in window.get_log("browser")
                           if e["level"] == "SEVERE" and not KNOWN.search(e["message"])]
        wide[path.name] = window.execute_script(
            "return document.scrollingElement.scrollWidth - document.documentElement.clientWidth")
        gone[path.name] = window.execute_script("""
            return [...document.images].filter(i => !i.naturalWidth).map(i => i.alt)""")
    assert {k: v for k, v in said.items() if v} == {}
    assert {k: v for k, v in wide.items() if v > 0} == {}
    assert {k: v for k, v in gone.items() if v} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_below_thumbnails_can_be_read(pages, chromium, theme):
    seen = 0
    for path in pages:
        if "nl-tone" not in path.read_text():
            continue
        show(chromium, path)
        least = chromium.execute_script("""
            document.documentElement.dataset.theme = arguments[0];
            const paint = document.createElement('canvas').getContext('2d');
            const rgb = c => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = c;
              paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data]; };
            const light = c => c.slice(0, 3).map(v => v / 255)
              .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
              .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const under = e => { for (; e; e = e.parentElement) {
              const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
              return [255, 255, 255]; };
            return [...document.querySelectorAll('.nl-tone')].map(e => {
              const [a, b] = [light(rgb(getComputedStyle(e).color)), light(under(e))];
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })""", theme)
        seen += len(least)
        assert min(least) >= 4.5, path.name
    assert seen or not any("nl-tone" in path.read_text() for path in pages)
