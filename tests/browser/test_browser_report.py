"""The report in a real browser: opened from disk, no script runs, nothing is requested, readable at phone width."""

import json
import shutil
from pathlib import Path

import pytest

import run_folders
from pairsight.reporting.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(run_folders.write_demo(tmp_path_factory.mktemp("browser") / "demo", hostile=True))


class Visit:
    """A page that was opened, with what the browser complained of and asked for."""

    def __init__(self, browser, path: Path, **options):
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


def test_it_opens_without_complaint_and_asks_for_nothing(browser, report):
    visit = Visit(browser, report, viewport={"width": 1280, "height": 900})
    assert visit.messages == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [report.as_uri()]
    assert visit.page.title() == "demo"
    visit.page.close()


def test_strangers_text_is_text_and_runs_nothing(browser, report):
    page = Visit(browser, report).page
    assert page.evaluate("window.owned") is None
    assert page.locator("script").count() == 0
    assert page.locator("h1").count() == 1
    shown = page.locator("#pairs").locator("xpath=..").inner_text()
    assert "<script>window.owned = 1</script>" in shown
    assert "<h1>big</h1>" in shown
    assert "{{ 7 * 7 }}" in shown
    assert "⟨U+202E⟩right to left⟨U+202C⟩" in shown
    page.close()


def test_every_picture_is_drawn_and_every_part_is_there(browser, report):
    page = Visit(browser, report).page
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator("img").count() >= 12
    assert page.locator("svg.figure").count() >= 12
    assert page.evaluate("[...document.querySelectorAll('svg.figure')].every(svg => svg.getAttribute('aria-label'))")
    assert page.locator("table tbody tr").count() >= 8
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    for anchor in page.locator("nav a").all():
        assert anchor.get_attribute("href").removeprefix("#") in ids
    page.close()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_has_contrast(browser, report, width, scheme):
    page = Visit(browser, report, viewport={"width": width, "height": 900}, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """width => [...document.querySelectorAll('main *')]
            .filter(element => !element.closest('.scroll, svg, pre, details'))
            .filter(element => element.getBoundingClientRect().right > width + 1)
            .map(element => element.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []
    assert min(page.evaluate(SMALLEST_TEXT)) >= 10
    assert page.evaluate(CONTRAST) >= 4.5
    page.close()


def test_it_prints(browser, report):
    page = Visit(browser, report).page
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


SMALLEST_TEXT = """() => [...document.querySelectorAll('main :is(p, td, th, small, li, figcaption, dd, dt)')]
    .map(element => parseFloat(getComputedStyle(element).fontSize))"""

CONTRAST = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = value => value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const light = colour => { const [r, g, b] = parts(colour).map(linear); return 0.2126*r + 0.7152*g + 0.0722*b; };
  const clear = colour => parts(colour).length === 4 && parts(colour)[3] === 0;
  const ground = element => clear(getComputedStyle(element).backgroundColor)
    ? ground(element.parentElement) : getComputedStyle(element).backgroundColor;
  const ratio = element => {
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); };
  const texts = document.querySelectorAll('main :is(p, td, th, small, li, figcaption, h2, h3, h4, span, b, mark)');
  return Math.min(...[...texts].map(ratio));
}"""


def test_a_benchmark_is_told_whole(browser, tmp_path):
    """Parser, fallbacks, the other parser, unparsed shares, categories, p-values, the printed figure beside ours."""
    both = run_folders.change(0.811, 0.825, 0.004, 0.024) | {"p_value": 0.0123, "unparsed": 9, "unparsed_base": 45}
    gqa = {
        "sha256": "ab" * 32, "rows": 900, "parser": "official rule with fallbacks",
        "fallbacks": ["words split by NLTK's rules"], "metrics": {"accuracy": both},
        "other_parser": {"parser": "robust", "metrics": {"accuracy": both | {"p_value": 0.0002}}},
        "categories": {"structural: verify": {"accuracy": both}},
        "published": [{"metric": "accuracy", "value": 0.62, "paper": "LLaVA-1.5", "table": "Table 3", "row": "7B",
                       "note": "", "differs": ["900 questions instead of 12578"]}],
    }  # fmt: skip
    folder = tmp_path / "compared"
    folder.mkdir()
    gqa |= {"evaluation": "held-out", "benchmark": "gqa", "file": f"data/{'testdev_balanced_questions_' * 3}.json"}
    whole = {"schema": 2, "systems": {"aligned": {"benchmarks": {"held-out/gqa": gqa}}}}
    (folder / "results.json").write_text(json.dumps(whole))
    visit = Visit(browser, write_report(folder), viewport={"width": 400, "height": 900})
    for details in visit.page.locator("details").all():
        details.evaluate("element => element.open = true")
    text = visit.page.locator("main").inner_text()
    for said in ("parser official rule with fallbacks", "words split by NLTK's rules", "p = 0.012", "p < 0.001",
                 "9 (1.0%), base's 45 (5.0%) unparsed", "+0.004 to +0.024", "robust parser", "structural: verify",
                 "0.811", "0.620", "LLaVA-1.5, Table 3, 7B", "different settings: 900 questions instead of 12578",
                 ):  # fmt: skip
        assert said in text, said
    assert visit.messages == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 400
    assert visit.page.evaluate(CONTRAST) >= 4.5
    visit.page.close()


def test_answers_that_were_scored_alone_are_told_too(browser, tmp_path):
    value = {"value": 0.83, "low": 0.81, "high": 0.85, "better": "higher", "num_items": 900, "unparsed": 18}
    pope = {"sha256": "ab" * 32, "rows": 900, "parser": "official", "fallbacks": [], "metrics": {"f1": value},
            "other_parser": {"parser": "robust", "metrics": {"f1": value | {"value": 0.9}}}}  # fmt: skip
    folder = tmp_path / "scored"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"schema": 1, "benchmarks": {"pope": pope}}))
    page = Visit(browser, write_report(folder)).page
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    text = page.locator("main").inner_text()
    for said in (
        "0.830",
        "0.810 to 0.850",
        "900 items, 18 (2.0%) unparsed",
        "robust parser",
        "0.900",
        "parser official",
    ):
        assert said in text, said
    page.close()
