"""The page at `/` in a real browser, beside the real service."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from isogon.bundle import THUMBNAILS, Bundle, vouched_artifact
from isogon.bundle.evaluation import EVALUATION
from isogon.images import ACCEPTED, FORMATS
from serving import page, running_service

PAGE = Path(page.__file__).with_name("index.html")
CHROMIUM = shutil.which("chromium")
expect.set_options(timeout=20_000)  # of milliseconds: the machine may be busy

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on the PATH; `apt-get install chromium`"
)


@pytest.fixture(scope="module")
def url(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_service(exported, tmp_path_factory.mktemp("page") / "log") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


class Watched:
    """A page, with its requests, errors and warnings."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        # Chromium logs every refusal; these the page shows or mends.
        refused = re.search("status of (400|401|415|429)", message.text)
        if message.type in ("error", "warning") and not refused:
            self.complaints.append(message.text)


def test_the_chooser_offers_every_format() -> None:
    text = PAGE.read_text()
    offered = re.search(r'accept="([^"]*)"', text)
    assert offered is not None
    assert f">{ACCEPTED}<" in text
    expected = {kind for each in FORMATS for kind in (each.types[0], *each.suffixes)}
    assert set(re.split(r",\s+", offered[1])) == expected


@pytest.fixture
def watched(browser: Browser, url: str) -> Iterator[Watched]:
    """The loaded page; at the end there were no errors and no requests to other hosts."""
    found = Watched(browser)
    found.page.goto(url)
    expect(found.page.get_by_role("heading", level=1)).to_have_text("digits")
    yield found
    assert found.complaints == []
    ours = (f"{url}/", "data:", f"blob:{url}/")
    assert [asked for asked in found.requests if not asked.startswith(ours)] == []
    found.context.close()


@pytest.fixture
def digit(digits: Path) -> Path:
    return sorted(digits.rglob("*.png"))[40]


def answer(page: Page, name: str) -> Any:
    """The entry of an image, once it is settled."""
    entry = page.get_by_role("article", name=name, exact=True)
    expect(entry).not_to_have_attribute("aria-busy", "true")
    return entry


def example(page: Page) -> Any:
    """The first of the familiar examples."""
    return page.get_by_role("button", name="Familiar example 1", exact=True)


# What is served, without a browser.


def test_the_page_is_files_of_the_service_with_a_strict_policy(url: str) -> None:
    page = httpx.get(url)
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' data: blob:;")
    assert "unsafe" not in policy
    assert httpx.head(url).status_code == 200
    parts = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    assert {Path(part).suffix for part in parts} == {".css", ".js"}
    for part in parts:
        found = httpx.get(f"{url}/{part}")
        assert found.status_code == 200
        assert found.headers["x-content-type-options"] == "nosniff"
        known = {"if-none-match": found.headers["etag"]}
        assert httpx.get(f"{url}/{part}", headers=known).status_code == 304
    assert httpx.get(f"{url}/page/__init__.py").status_code == 404
    assert httpx.get(f"{url}/docs").status_code == 404  # it asks a CDN


def test_the_histogram_is_of_the_calibration_in_force(url: str, exported: Path) -> None:
    calibration = vouched_artifact(Bundle.open(exported)).calibration
    found = httpx.get(f"{url}/v1/calibration").json()
    scores = np.array(calibration.scores)
    assert found["alpha"] == calibration.alpha
    assert found["images"] == sum(found["counts"]) == len(scores)
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert found["edges"][0] == scores.min()
    assert found["edges"][-1] == scores.max()
    flagged = calibration.is_ood(scores)
    assert np.array_equal(scores > found["threshold"], flagged)


def test_neighbours_are_those_of_the_bank_and_scores_those_of_score(
    url: str, exported: Path, digit: Path
) -> None:
    upload = {"images": digit.read_bytes()}
    found = httpx.post(f"{url}/v1/neighbours", params={"k": 3}, files=upload).json()
    (result,) = found["results"]
    scored = httpx.post(f"{url}/v1/score", files=upload).json()["results"][0]
    assert result["ood"] == scored["ood"]
    embedded = httpx.post(f"{url}/v1/embed", files=upload).json()["results"][0]
    arrays = Bundle.open(exported).arrays(THUMBNAILS)
    cosines = arrays["embeddings"] @ np.array(embedded["embedding"], dtype=np.float32)
    assert found["reference_images"] == len(cosines)
    near = result["neighbours"]
    assert [one["index"] for one in near] == np.argsort(-cosines)[:3].tolist()
    assert [one["cosine"] for one in near] == pytest.approx(
        sorted(cosines, reverse=True)[:3], abs=1e-5
    )
    assert near[0]["label"] in "0123456789"
    assert near[0]["image"].startswith("data:image/jpeg;base64,")


def test_neighbours_refuse_as_the_other_routes_do(url: str) -> None:
    refused = httpx.post(f"{url}/v1/neighbours", files={"images": b"nope"})
    assert refused.status_code == 400
    assert refused.headers["content-type"] == "application/problem+json"
    for route in ("calibration", "examples"):
        assert httpx.get(f"{url}/v1/{route}?model=nobody").status_code == 404
    assert httpx.post(f"{url}/v1/neighbours?k=0", files={"images": b""}).status_code == 422


# In the browser.


@in_a_browser
def test_dropped_images_get_verdicts_in_words_scores_and_neighbours(
    watched: Watched, digit: Path, photographs: Path
) -> None:
    page = watched.page
    files = [digit, photographs / "coffee.jpg"]
    page.get_by_label("Choose images").set_input_files(files)
    familiar = answer(page, digit.name)
    expect(familiar).to_contain_text("Familiar")
    expect(familiar).to_contain_text(re.compile("at least this unusual"))
    shown = familiar.locator(".neighbours img")
    expect(shown).to_have_count(8)
    widths = shown.evaluate_all("images => images.map(image => image.naturalWidth)")
    assert widths == [32] * 8  # they loaded
    expect(shown.first).to_have_accessible_name(
        re.compile("Reference image of class [0-9]")
    )
    unfamiliar = answer(page, "coffee.jpg")
    expect(unfamiliar).to_contain_text("Unfamiliar")
    expect(unfamiliar).to_contain_text(
        re.compile(r"Flagged, because p = .* is at most .* 0\.05")
    )
    histogram = unfamiliar.get_by_role("img", name="Histogram of the OOD scores of")
    expect(histogram).to_be_visible()
    expect(histogram).to_have_accessible_name(re.compile(r"above that\.$"))
    said = page.get_by_role("status")
    expect(said).to_have_text("2 images: 1 familiar, 1 unfamiliar, 0 refused.")


@in_a_browser
def test_a_real_drop_and_a_paste_are_taken(watched: Watched, digit: Path) -> None:
    page = watched.page
    data = page.evaluate_handle(
        """async bytes => {
            const data = new DataTransfer();
            const file = new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"});
            data.items.add(file);
            return data;
        }""",
        list(digit.read_bytes()),
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": data})
    expect(page.locator("#drop")).to_have_class("drop over")
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(answer(page, "dropped.png")).to_contain_text("Familiar")
    page.evaluate(
        "data => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}))",
        data,
    )
    expect(page.get_by_role("article")).to_have_count(2)


@in_a_browser
def test_the_keyboard_alone_reaches_an_answer_and_clears_it(watched: Watched) -> None:
    page = watched.page
    example(page).wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to choosing images")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    if page.locator("#files").evaluate("input => input === document.activeElement"):
        page.keyboard.press("Tab")
    expect(example(page)).to_be_focused()
    outline = example(page).evaluate("button => getComputedStyle(button).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    settled = answer(page, "Familiar example 1")
    expect(settled.locator(".verdict")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Familiar example 1:")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.get_by_role("button", name="Clear").evaluate(
            "button => button === document.activeElement"
        ):
            break
    page.keyboard.press("Space")
    expect(page.get_by_role("article")).to_have_count(0)
    expect(page.locator("#files")).to_be_focused()


@in_a_browser
def test_what_is_refused_says_why_and_harms_nothing_else(
    watched: Watched, digit: Path, tmp_path: Path
) -> None:
    page = watched.page
    broken, notes = tmp_path / "broken.jpg", tmp_path / "notes.txt"
    broken.write_bytes(b"not a picture")
    notes.write_text("words")
    page.get_by_label("Choose images").set_input_files([broken, notes, digit])
    expect(answer(page, "broken.jpg")).to_contain_text(
        "It is not an image that can be read"
    )
    expect(answer(page, "notes.txt")).to_contain_text(
        f"It is declared as text/plain. Send {ACCEPTED}."
    )
    expect(answer(page, digit.name)).to_contain_text("Familiar")
    expect(page.get_by_role("status")).to_contain_text("2 refused")


@in_a_browser
def test_a_bundle_without_thumbnails_is_served_and_the_page_says_so(
    browser: Browser, bundle: Bundle, tmp_path: Path
) -> None:
    with bundle.stage("distill") as stage:
        stage.withdraw(THUMBNAILS)
    with running_service(bundle.path, tmp_path / "log") as url:
        watched = Watched(browser)
        watched.page.goto(url)
        example(watched.page).click()
        entry = answer(watched.page, "Familiar example 1")
        expect(entry).to_contain_text("This bundle ships no reference images")
        expect(entry.locator(".verdict")).to_be_visible()
        expect(entry.get_by_role("img", name="Reference image")).to_have_count(0)
        watched.context.close()


@in_a_browser
def test_a_name_is_shown_as_text_and_never_as_markup(
    watched: Watched, digit: Path, tmp_path: Path
) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    shutil.copy(digit, tmp_path / name)
    watched.page.get_by_label("Choose images").set_input_files(tmp_path / name)
    expect(answer(watched.page, name).get_by_role("heading")).to_have_text(name)


@in_a_browser
def test_a_busy_service_is_asked_again(watched: Watched, digit: Path) -> None:
    page, refusals = watched.page, []

    def busy(route: Route) -> None:
        if refusals:
            route.continue_()
            return
        refusals.append(429)
        route.fulfill(status=429, headers={"retry-after": "1"}, json={"detail": "Full."})

    page.route("**/v1/neighbours*", busy)
    page.get_by_label("Choose images").set_input_files(digit)
    expect(page.get_by_role("article")).to_contain_text("asking again in 1 s")
    expect(answer(page, digit.name)).to_contain_text("Familiar")
    assert refusals == [429]


@in_a_browser
def test_a_failed_answer_affects_its_own_image_alone(
    browser: Browser, url: str, digit: Path, tmp_path: Path
) -> None:
    """More failed answers than parallel requests, and then a good one."""
    watched, bodies = Watched(browser), []
    page = watched.page
    page.goto(url)
    upload = {"images": digit.read_bytes()}
    without_score = httpx.post(f"{url}/v1/neighbours?k=8", files=upload).json()
    without_score["results"][0]["ood"]["score"] = None  # as JSON has NaN

    def other(route: Route) -> None:
        bodies.append(route)
        if len(bodies) == 1:
            route.fulfill(json=without_score)
        elif len(bodies) == 2:
            route.fulfill(json={"model": {}})
        elif len(bodies) <= 5:
            route.fulfill(body="<html>Log in</html>", content_type="text/html")
        else:
            route.continue_()

    page.route("**/v1/neighbours*", other)
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        page.get_by_label("Choose images").set_input_files(
            [shutil.copy(digit, tmp_path / name)]
        )
        answer(page, name)
    expect(answer(page, "0.png")).to_contain_text("OOD score not a number")
    expect(answer(page, "1.png")).to_contain_text("Its answer could not be shown")
    for name in names[2:5]:
        expect(answer(page, name)).to_contain_text("What answered is not this service")
    expect(answer(page, "5.png")).to_contain_text("Familiar")
    expect(page.locator("#progress")).to_be_hidden()
    watched.context.close()


@in_a_browser
def test_a_model_that_is_gone_is_named_and_another_can_be_chosen(
    browser: Browser, url: str
) -> None:
    watched = Watched(browser)
    page = watched.page
    page.goto(f"{url}/?model=gone")
    expect(page.get_by_role("alert")).to_contain_text("no model 'gone' here")
    page.get_by_label("Model", exact=True).select_option("digits")
    expect(page.get_by_role("heading", level=1)).to_have_text("digits")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#curl")).to_contain_text('-F model="digits"')
    expect(page.locator("#curl")).to_contain_text(f'"{url}/v1/model?model=digits"')
    watched.context.close()


@in_a_browser
def test_a_key_is_asked_for_and_another_model_can_be_chosen(
    browser: Browser, exported: Path, tmp_path: Path, digit: Path
) -> None:
    bundles = [f"first={exported}", f"second={exported}"]
    keys = {"ISOGON_API_KEYS": "right"}
    with running_service(bundles, tmp_path / "log", keys) as url:
        watched = Watched(browser)
        page = watched.page
        page.goto(url)
        field = page.get_by_label("This service wants an API key.")
        expect(field).to_be_focused()
        field.fill("\u201cright\u201d")  # as word processors quote
        field.press("Enter")
        expect(page.get_by_text("plain letters, digits and signs")).to_be_visible()
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_text("That key was refused.")).to_be_visible()
        field.fill("right")
        field.press("Enter")
        title = page.get_by_role("heading", level=1)
        expect(title).to_have_text("first")
        expect(field).to_be_hidden()
        expect(page.locator("#files")).to_be_focused()
        expect(page.locator("#curl")).to_contain_text("Authorization: Bearer KEY")
        page.get_by_label("Model", exact=True).select_option("second")
        expect(title).to_have_text("second")  # and the tab still knows the key
        expect(field).to_be_hidden()
        with page.expect_response("**/v1/neighbours*") as answered:
            page.get_by_label("Choose images").set_input_files(digit)
        assert answered.value.json()["model"]["name"] == "second"
        expect(answer(page, digit.name)).to_contain_text("Familiar")
        assert watched.complaints == []
        watched.context.close()


@in_a_browser
def test_the_card_and_the_routes_can_be_read(watched: Watched, exported: Path) -> None:
    page = watched.page
    card = page.get_by_role("region", name="The model")
    manifest = Bundle.open(exported).manifest
    for fact in (manifest.student.architecture, manifest.teacher.architecture, "onnx/"):
        expect(card).to_contain_text(fact)
    card.get_by_text("Parity passed").click()
    expect(card.get_by_role("row", name="mean cosine")).to_contain_text("0.99999")
    expect(card.get_by_role("row", name="mean cosine")).to_contain_text("≥ 0.999")
    expect(card).to_contain_text(re.compile(r"[0-9.]+\s% of 36 other familiar images"))
    page.get_by_text("Every route").click()
    expect(page.get_by_role("row", name="POST /v1/neighbours")).to_be_visible()
    expect(page.get_by_role("link", name="OpenAPI document")).to_be_visible()


@in_a_browser
@pytest.mark.parametrize(
    ("gain", "kind", "text"),
    [
        (0.1, "proof", "✓ Distilling has paid"),
        (-0.1, "caution", "! Distilling has not paid"),
        (0.01, "caution", "? Gain of distilling unclear"),
        (None, "plain", "Gain of distilling: not measured"),
    ],
)
def test_a_badge_says_whether_distilling_has_paid_legibly_in_any_light(
    browser: Browser,
    judged: Callable[..., Path],
    tmp_path: Path,
    gain: float | None,
    kind: str,
    text: str,
) -> None:
    with running_service(judged("one", gain), tmp_path / "log") as url:
        for scheme in ("light", "dark"):
            watched = Watched(browser, color_scheme=scheme)
            watched.page.goto(url)
            card = watched.page.get_by_role("region", name="The model")
            badge = card.get_by_text(text)
            expect(badge).to_have_class(f"badge {kind}")
            badge.click()
            expect(card).to_contain_text("istilling has")  # the sentence
            expect(card.get_by_role("row", name="teacher")).to_contain_text("\u2013")
            for network in ("undistilled", "closed-form start"):
                row = card.get_by_role("row", name=network)
                expect(row).to_have_count(0 if gain is None else 1)
            found = watched.page.evaluate(CONTRASTS)
            assert text in dict(found)
            assert {said: ratio for said, ratio in found if ratio < 4.5} == {}
            assert watched.complaints == []
            watched.context.close()


@in_a_browser
def test_the_card_says_how_well_the_model_detects(
    browser: Browser, judged: Callable[..., Path], bundle: Bundle, tmp_path: Path
) -> None:
    site = Bundle.open(judged("site", 0.1))
    with site.stage("calibrate") as stage:
        stage.write("ood/site/detector.json", "{}")
    with bundle.stage("evaluate") as stage:
        stage.withdraw(EVALUATION)
    bundles = {
        "own": judged("own", 0.1),
        "site": site.path,
        "old": judged("old", None),
        "none": bundle.path,
    }
    flagged = (
        "Flags 67 % of 12 unfamiliar images. photographs (far): 8 of 12 flagged, AUROC"
    )
    sayings = {
        "own": (flagged, "(undistilled ", "At \u03b1 = 0.05, by "),
        "site": (flagged, "It is not the one that answers: that was fitted at the site"),
        "old": ("How many unfamiliar images it flags: not measured.", "12 images, AUROC"),
        "none": ("Detection not measured", "Gain of distilling: not measured"),
    }
    served = [f"{name}={path}" for name, path in bundles.items()]
    with running_service(served, tmp_path / "log") as url:
        for name, said in sayings.items():
            watched = Watched(browser)
            watched.page.goto(f"{url}/?model={name}")
            card = watched.page.get_by_role("region", name="The model")
            expect(card).to_contain_text("Detection")
            words = " ".join(card.inner_text().split())
            assert [part for part in said if part not in words] == []
            assert watched.complaints == []
            watched.context.close()


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_contrasts_with_its_ground(
    browser: Browser, url: str, scheme: Any, digit: Path, photographs: Path, tmp_path: Path
) -> None:
    watched = Watched(browser, color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page = watched.page
    page.goto(url)
    example(page).wait_for()
    (tmp_path / "notes.txt").write_text("words")
    files = [digit, photographs / "coffee.jpg", tmp_path / "notes.txt"]
    page.get_by_label("Choose images").set_input_files(files)
    for file in files:
        answer(page, file.name)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 40
    assert {text: ratio for text, ratio in found if ratio < 4.5} == {}  # WCAG 2.2 AA
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    corner = np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("L"))[0, 0]
    assert (corner > 128) == (scheme == "light")
    watched.context.close()


@in_a_browser
@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_leaves_its_place_on_any_screen(
    browser: Browser, url: str, photographs: Path, width: int
) -> None:
    watched = Watched(browser, viewport={"width": width, "height": 640})
    page = watched.page
    page.goto(url)
    page.get_by_label("Choose images").set_input_files(photographs / "coffee.jpg")
    expect(answer(page, "coffee.jpg")).to_contain_text("Unfamiliar")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    watched.context.close()


@in_a_browser
def test_everything_has_a_role_and_a_name(watched: Watched) -> None:
    page = watched.page
    example(page).click()
    answer(page, "Familiar example 1")
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    for region in ("Try an image", "Answers", "The model", "From your code"):
        expect(page.get_by_role("region", name=region)).to_be_visible()
    assert (
        page.locator("img:not([alt]), svg:not([aria-hidden]):not([aria-label])").count()
        == 0
    )
    for control in page.locator("button:visible, input:visible, select:visible").all():
        expect(control).to_have_accessible_name(re.compile("."))
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(one => one.tagName)")
    assert levels[0] == "H1"
    assert levels.count("H1") == 1
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))


# The labels of a histogram that reach beyond it.
OUTSIDE = """() => {
  const frame = document.querySelector(".histogram").getBoundingClientRect();
  return [...document.querySelectorAll(".histogram text")].filter(text => {
    const {left, right} = text.getBoundingClientRect();
    return left < frame.left - 2 || right > frame.right + 2;
  }).map(text => text.textContent);
}"""

# The contrast of each text with what lies behind it, by WCAG 2.2's formula.
CONTRASTS = """() => {
  const parsed = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return {rgb: [r, g, b], a};
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let one = element; one; one = one.parentElement) {
      const {rgb, a} = parsed(getComputedStyle(one).backgroundColor);
      if (a === 1) return rgb;
    }
    throw new Error("no ground");
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("noscript, option")) continue;
    const style = getComputedStyle(element);
    const ink = parsed(element.ownerSVGElement ? style.fill : style.color).rgb;
    const [one, other] = [luminance(ink), luminance(ground(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push([text, ratio]);
  }
  return found;
}"""
