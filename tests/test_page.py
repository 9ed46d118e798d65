"""The page of an inspection: what it holds, and what a browser shows of it."""

import base64
import hashlib
import html.parser
import itertools
import json
import re
import zlib

import numpy as np
import pytest

from tests import chromium
from vit_jax.inspection import page

HOSTILE = "</script><b>@script@<!--"
LAYERS, HEADS, ROWS, COLUMNS = 4, 3, 6, 8
PEAK = 2 * COLUMNS + 5  # the patch that all class tokens look at: row 2, column 5


def payload(images=2, layers=LAYERS, heads=HEADS, grid=(ROWS, COLUMNS), stride=16):
    """Numbers without a pattern, but that the class token looks at `PEAK` most."""
    rng = np.random.default_rng(0)
    count = grid[0] * grid[1]

    def numbers(*shape):
        return rng.integers(0, 256, shape, np.uint8)

    def symmetric(*shape):
        half = np.tril(numbers(*shape))
        return half + np.tril(half, -1).swapaxes(-1, -2)

    def image(number):
        readout = numbers(layers, heads, count) // 4
        readout[..., PEAK] = 255
        return {
            "name": f"{number} {HOSTILE}",
            "view": numbers(stride * grid[0], stride * grid[1], 3) // 2,
            "readout": readout,
            "readout_scale": rng.uniform(0.1, 0.2, (layers, heads)),
            "readout_mean": readout.mean(axis=1).astype(np.uint8),
            "readout_mean_scale": rng.uniform(0.1, 0.2, layers),
            "readout_prefix": rng.uniform(0.1, 0.2, (layers, heads)),
            "patch": numbers(layers, 1, count, count),
            "patch_scale": rng.uniform(0.1, 0.2, (layers, 1)),
            "rollout": numbers(layers, count),
            "rollout_scale": rng.uniform(0.1, 0.2, layers),
            "rollout_prefix": rng.uniform(0.1, 0.2, layers),
            "similarity": symmetric(layers, count, count),
            "similarity_low": rng.uniform(-1, 0, layers),
            "similarity_high": np.ones(layers),
            "predictions": [
                {"label": k, "name": f"{k} {HOSTILE}", "probability": 0.5**k}
                for k in range(1, 6)
            ],
        }

    return {
        "format": 1,
        "model": {
            "source": f"weights/{HOSTILE}.npz",
            "summary": f"B/16 {HOSTILE}",
            "parameters": 86_567_656,
            "image_size": [stride * grid[0], stride * grid[1]],
            "grid": list(grid),
            "stride": [stride, stride],
            "prefix": 1,
            "pool": "token",
            "read": "the class token",
            "problem": "single_label",
            "layers": [str(layer) for layer in range(layers)],
            "heads": heads,
        },
        "images": [image(number) for number in range(images)],
        "detail_layers": list(range(layers)),
        "distance": rng.uniform(10, 90, (layers, heads)),
        "distance_uniform": 100.0,
        "posemb": {
            "names": ["stem", HOSTILE],
            "similarity": symmetric(2, count, count),
            "what": f"learned {HOSTILE}",
        },
        "filters": {
            "images": numbers(28, stride, stride, 3),
            "variance": np.full(28, 0.03),
            "what": f"the kernel {HOSTILE}",
        },
        "notes": [f"Nothing is missing {HOSTILE}."],
    }


@pytest.fixture(scope="module")
def given():
    return payload()


@pytest.fixture(scope="module")
def text(given):
    return page.render(given)


def unpacked(part):
    data = zlib.decompress(base64.b64decode(part["bytes"]))
    return {
        name: np.frombuffer(data, np.uint8, int(np.prod(shape)), at).reshape(shape)
        for name, (at, shape) in part["arrays"].items()
    }


def data_of(text):
    (found,) = re.findall(r'<script type="application/json".*?>(.*?)</script>', text)
    return json.loads(found)


def test_what_is_packed_comes_back(given, text):
    data = data_of(text)
    assert data["levels"] == 255 and data["patch_heads"] == 1
    lower = np.tril_indices(ROWS * COLUMNS)
    for image, part in zip(given["images"], data["images"], strict=True):
        arrays = unpacked(part)
        for name in ("readout", "readout_mean", "rollout", "patch"):
            np.testing.assert_array_equal(arrays[name], image[name])
        triangle = image["similarity"][:, *lower]
        np.testing.assert_array_equal(arrays["similarity"], triangle)
        for name in ("readout_scale", "similarity_low", "rollout_prefix"):
            np.testing.assert_allclose(part[name], image[name], rtol=1e-4)
        assert part["name"] == image["name"]
        assert part["predictions"][4] == image["predictions"][4]
    positions = given["posemb"]["similarity"][:, *lower]
    np.testing.assert_array_equal(unpacked(data["shared"])["posemb"], positions)


def test_fewer_levels_are_nearest_ones(given):
    fine, coarse = (
        unpacked(page.packed(given, levels)["images"][0]) for levels in (255, 15)
    )
    found = coarse["patch"].astype(float) * 255 / 15
    assert abs(found - fine["patch"]).max() <= 255 / 15 / 2
    np.testing.assert_array_equal(coarse["readout"], fine["readout"])


def test_the_levels_are_the_finest_that_the_limit_allows(given):
    sizes = [len(page._fill(page.packed(given, levels))) for levels in page.LEVELS]
    assert sizes == sorted(sizes, reverse=True)
    assert data_of(page.render(given, limit=sizes[1]))["levels"] == page.LEVELS[1]
    assert data_of(page.render(given, limit=sizes[1] - 1))["levels"] == page.LEVELS[2]
    assert data_of(page.render(given, limit=0))["levels"] == 15


def test_eight_images_of_a_base_model_take_less_than_five_megabytes():
    # Random bytes, of which nothing real is larger; an image's size does not depend on
    # how many there are.
    one = page.packed(payload(1, 12, 12, (14, 14)), 15)
    around = len(page._fill({**one, "images": []}))
    each = len(json.dumps(one["images"][0]))
    assert around + 8 * each < 5_000_000
    assert each > 300_000, "numbers are missing"


def test_a_model_without_images_and_one_without_tables_have_pages(given):
    without = {
        **{"images": [], "detail_layers": [], "distance": None},
        **{"distance_uniform": None, "posemb": None, "filters": None},
    }
    data = data_of(page.render({**given, **without}))
    assert data["images"] == [] and data["shared"]["arrays"] == {}


def test_what_is_not_finite_is_said_to_be_nothing(given):
    odd = {**given, "distance": np.array([[np.nan, 1]])}
    assert data_of(page.render(odd))["distance"] == [[None, 1.0]]


def test_names_do_not_leave_their_places(text):
    assert "<b>" not in text and "<!--" not in text.replace("<!doctype", "")
    # Two of our own, the data and the script, each closed once.
    assert len(re.findall(r"<script\b", text)) == text.count("</script>") == 2
    assert data_of(text)["model"]["source"] == f"weights/{HOSTILE}.npz"


def test_it_asks_for_nothing_and_is_forbidden_to(text):
    addresses = set(re.findall(r"\w+://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a language
    assert not re.search(r"@import|url\(|\bsrc=|fetch\(|XMLHttp|import\(", text)
    (policy,) = re.findall(r'Security-Policy" content="(.*?)"', text)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


class Controls(html.parser.HTMLParser):
    """The controls of a page, and which of them nothing names."""

    def __init__(self, text):
        super().__init__()
        self.inside, self.named, self.controls = 0, set(), []
        self.fieldsets = self.legends = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "label":
            self.inside += 1
            self.named.add(values.get("for"))
        elif tag in ("input", "select", "button"):
            self.controls.append((values.get("id"), self.inside > 0))
        elif tag == "canvas" and "tabindex" in values:
            assert {"role", "aria-roledescription", "aria-describedby"} <= set(values)
        self.fieldsets += tag == "fieldset"
        self.legends += tag == "legend"

    def handle_endtag(self, tag):
        self.inside -= tag == "label"

    def nameless(self):
        return [
            name for name, inside in self.controls if not inside | (name in self.named)
        ]


def test_every_control_has_a_label(text):
    found = Controls(text)
    assert len(found.controls) == 14 and not found.nameless()
    assert found.fieldsets == found.legends == 5
    assert Controls("<label for=a></label><input id=a><input id=b>").nameless() == ["b"]


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_stands_out_in_light_and_dark():
    themes = re.findall(r"\{\s*(--page.*?)\}", page._asset("page.css"), re.DOTALL)
    assert len(themes) == 3 and themes[1].split() == themes[2].split()
    for theme in themes:
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", theme))
        for above, least in (("ink", 7), ("muted", 4.5), ("accent", 4.5), ("dot", 2.5)):
            for below in ("page", "card", "well"):
                pair = sorted(luminance(colours[each]) for each in (above, below))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, (above, below)


needs_browser = pytest.mark.skipif(
    not chromium.find(), reason="no Chromium on the PATH or in VIT_JAX_CHROMIUM"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = chromium.Browser(chromium.find(), tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(text)
    return path


def box(browser, selector):
    """Where an element is in the window: left, top, width, height."""
    script = f"""(() => {{
        const found = document.querySelector({selector!r});
        found.scrollIntoView({{ block: "center" }});
        const box = found.getBoundingClientRect();
        return [box.left, box.top, box.width, box.height];
    }})()"""
    return browser.evaluate(script)


def said(browser, selector, what="textContent"):
    found = browser.evaluate(f"document.querySelector({selector!r}).{what}")
    return found.replace("\N{NO-BREAK SPACE}", " ")


def centre(browser, selector, patch):
    """The middle of a patch, in pixels of the window."""
    left, top, width, height = box(browser, selector)
    row, column = divmod(patch, COLUMNS)
    return (left + (column + 0.5) * width / COLUMNS, top + (row + 0.5) * height / ROWS)


def colour(browser, selector, patch):
    """The mean colour of the inner part of a patch on the screen."""
    x, y = centre(browser, selector, patch)
    ratio = browser.evaluate("devicePixelRatio")
    area = [round(ratio * each) for each in (x - 6, y - 6, x + 6, y + 6)]
    return np.asarray(browser.screenshot().crop(area)).mean((0, 1))


@pytest.mark.slow
@needs_browser
def test_it_is_drawn_at_any_width_in_light_and_dark(browser, file):
    for width, dark in itertools.product((1280, 390), (False, True)):
        check_drawing(browser, file, width, dark)


def check_drawing(browser, file, width, dark):
    browser.show(file, width=width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    corner = np.asarray(browser.screenshot())[2, 2]
    assert (corner < 40).all() if dark else (corner > 200).all()
    # Yellow where all look, purple elsewhere, over a dim photograph.
    peak, other = (colour(browser, "#a canvas", patch) for patch in (PEAK, PEAK + 9))
    assert peak[0] > peak[2] + 60 and peak[1] > peak[2] + 60, peak
    assert peak.sum() > other.sum() + 100, (peak, other)
    browser.evaluate("document.querySelector('[name=paint][value=light]').click()")
    peak, other = (colour(browser, "#a canvas", patch) for patch in (PEAK, PEAK + 9))
    assert peak.sum() > 1.2 * other.sum(), (peak, other)
    for name in ("#a canvas", "#b canvas", "#atlas canvas", ".tiles", ".one"):
        left, top, wide, high = box(browser, name)
        assert 0 <= left and left + wide <= width and high > 50, name
        ratio = browser.evaluate("devicePixelRatio")
        area = [ratio * each for each in (left, top, left + wide, top + high)]
        assert np.asarray(browser.screenshot().crop(area)).std() > 10, name
    lowest = box(browser, "#filters")
    assert lowest[2] > 300 and said(browser, "#notes").startswith("Nothing is missing")
    assert not browser.complaints()


@pytest.mark.slow
@needs_browser
def test_it_is_worked_by_keys(browser, file):
    browser.show(file)
    height = browser.evaluate("document.documentElement.scrollHeight")
    start = said(browser, "#a .reading")
    assert start.startswith("Layer 3, mean of heads: the patch in row 3, column 4 gets")
    stops = []
    for _ in range(40):
        browser.key("Tab")
        script = "[document.activeElement.id, document.activeElement.name ?? '', "
        script += "document.activeElement.closest('figure')?.id ?? '']"
        stops.append(tuple(browser.evaluate(script)))
    order = [("", "theme", ""), ("", "image", ""), ("layer", "", ""), ("head", "", "")]
    order += [("", "a", "a"), ("", "", "a"), ("", "b", "b"), ("", "", "b")]
    order += [("", "", "atlas"), ("", "paint", ""), ("strength", "", "")]
    order += [("shared", "", ""), ("table", "", "posemb"), ("", "", "posemb")]
    places = [stops.index(stop) for stop in order]
    assert places == sorted(places)

    def after(selector, *keys):
        browser.evaluate(f"document.querySelector({selector!r}).focus()")
        for key in keys:
            browser.key(key)
        return said(browser, "#a .reading")

    assert after("#layer", "ArrowLeft").startswith("Layer 2, mean of heads")
    assert after("#head", "ArrowRight").startswith("Layer 2, head 0: ")
    assert said(browser, "#head-value") == "0 (0 to 2)"
    assert "row 2, column 5" in after("#a canvas", "ArrowUp", "ArrowRight")
    assert "row 2, column 0" in after("#b canvas", "Home")
    assert "row 5, column 7" in after("#a canvas", "End", *["ArrowDown"] * 9)
    assert after("#b canvas", "PageDown", ".").startswith("Layer 3, head 1: ")
    assert after("#atlas canvas", "ArrowUp", "ArrowUp").startswith("Layer 1, head 1")
    assert "Rollout up to layer 1" in after("[name=a]", "ArrowRight")
    assert said(browser, "#b .reading").startswith("Layer 1, mean of heads: attention")
    after("[name=b]", "ArrowRight")
    assert said(browser, "#b .reading").startswith("Layer 1: cosine of the tokens")
    after("[name=image]", "ArrowRight")
    browser.until("document.querySelector('#a canvas').ariaLabel.startsWith('1 ')")
    label = said(browser, "#a canvas", "ariaLabel")
    assert label == f"1 {HOSTILE}. " + said(browser, "#a .reading")
    browser.until("document.querySelector('#said').textContent.includes('Rollout')")
    # Nothing moved on the way, and the address has it all.
    assert browser.evaluate("document.documentElement.scrollHeight") == height
    address = browser.evaluate("location.hash")
    browser.show(file, address=address)
    assert said(browser, "#a canvas", "ariaLabel") == label
    assert not browser.complaints()


@pytest.mark.slow
@needs_browser
def test_it_is_worked_by_pointing(browser, file, given):
    for width in (1280, 390):
        check_pointing(browser, file, given, width)


def check_pointing(browser, file, given, width):
    browser.show(file, width=width, address="#layer=2&head=1")
    for selector in ("#a canvas", "#b canvas"):
        browser.click(*centre(browser, selector, PEAK))
        assert "in row 2, column 5" in said(browser, "#b .reading")
        browser.click(*centre(browser, selector, 0))
        assert "in row 0, column 0" in said(browser, "#b .reading")
    browser.click(*centre(browser, ".tiles", PEAK))
    # The numbers that are said are those that were given.
    image = given["images"][0]
    value = image["readout_scale"][2, 1]
    assert f"gets {100 * value:.1f} %" in said(browser, "#a .reading")
    most = image["rollout_scale"][2] * (image["rollout"][2].max() / 255.0) ** 2
    row = image["patch_scale"][2, 0] * (image["patch"][2, 0, PEAK] / 255.0) ** 2
    (own,) = re.findall(r"To itself ([\d.]+) %", said(browser, "#b .reading"))
    np.testing.assert_allclose(float(own), 100 * row[PEAK], rtol=0.05)
    for choice in ("rollout", "similarity"):
        x, y, wide, high = box(browser, f"[value={choice}] + span")
        browser.click(x + wide / 2, y + high / 2)
    assert f"any patch is {100 * most:.1f} %" in said(browser, "#a .reading")
    low = image["similarity_low"][2]
    cosines = low + (1 - low) * image["similarity"][2, PEAK] / 255
    cosines[PEAK] = -np.inf
    row, column = divmod(int(cosines.argmax()), COLUMNS)
    nearest = f"row {row}, column {column}: {cosines.max():.2f}."
    assert nearest in said(browser, "#b .reading")
    others = np.delete(2.0 * given["posemb"]["similarity"][0, PEAK] / 255 - 1, PEAK)
    assert f"to all {others.mean():.2f}." in said(browser, "#posemb .reading")
    browser.evaluate("document.querySelector('[name=a]').click()")
    ticks = "#a .ticks span:last-of-type"
    assert said(browser, ticks) == f"{100 * image['readout_scale'][2, 1]:.1f} %"
    browser.evaluate("document.querySelector('#shared').click()")
    assert said(browser, ticks) == f"{100 * image['readout_scale'].max():.1f} %"
    assert f"any patch is {100 * value:.1f} %" in said(browser, "#a .reading")
    left, top, wide, _ = box(browser, "#atlas canvas")
    across = (wide - 26) / (HEADS + 1)
    browser.click(left + 26 + 3.5 * across, top + 18 + across * ROWS / COLUMNS / 2)
    assert said(browser, "#a .reading").startswith("Layer 0, head 2: ")
    assert f"head 2 {given['distance'][0, 2]:.1f}" in said(
        browser, "#distance .reading"
    )
    x, y, wide, high = box(browser, "#distance circle:last-of-type")
    browser.click(x + wide / 2, y + high / 2)
    assert said(browser, "#a .reading").startswith("Layer 3, head 2: ")
    x, y, wide, high = box(browser, "#theme label:last-of-type")
    browser.click(x + wide / 2, y + high / 2)
    assert (np.asarray(browser.screenshot())[2, 2] < 40).all()
    assert not browser.complaints()


@pytest.mark.slow
@needs_browser
def test_a_base_model_is_drawn_in_a_second_and_a_layer_in_a_tenth(browser, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(page.render(payload(8, 12, 12, (14, 14))))
    assert path.stat().st_size < 5_000_000
    # Others may be at work on the machine: the best of three, in milliseconds.
    assert min(int(browser.show(path)) for _ in range(3)) < 1000
    script = """(async () => {
        const before = performance.now();
        document.querySelector("#layer").value = 3;
        document.querySelector("#layer").dispatchEvent(new Event("input"));
        await new Promise(requestAnimationFrame);
        await new Promise((done) => setTimeout(done));
        return performance.now() - before;
    })()"""
    assert browser.evaluate(script) < 100
    assert said(browser, "#a .reading").startswith("Layer 3, ")
