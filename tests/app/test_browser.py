"""The page in headless Chromium, used by mouse, by keyboard and on a telephone."""

import base64
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gazelit.deploy.app import server
from tests.app.conftest import KEY, REPORTS_PICTURE, SQUARE, film, png, served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = playwright.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: `.ci/run` installs it where npm works; it is not part of the repository (MPL-2.0).
AXE = Path(__file__).resolve().parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; on Debian, apt-get install chromium")

#: The canvas as nested lists of red, green, blue; bytes would arrive as an object with a million members.
PIXELS = """canvas => {
  const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let at = 0; at < data.length; at += 4) text += String.fromCharCode(data[at], data[at + 1], data[at + 2]);
  return [height, width, btoa(text)];
}"""
DROP = """([bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0))], name));
  return transfer;
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # Chromium has no sandbox when it runs as root, as in a container.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


@contextmanager
def opened(browser, address):
    """The page after loading; all its requests go to the app, and its policy blocks none of its own."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(20_000)
    # A busy machine can take longer than playwright's default of five seconds.
    expect.set_options(timeout=20_000)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    page.goto(f"{address}/?key={KEY}")
    expect(page.get_by_role("heading", name="Read a film")).to_be_visible()
    yield page
    elsewhere = [request for request in requests if not request.url.startswith((address, "blob:"))]
    # A browser also reports requests that the policy has blocked.
    assert not [request.url for request in elsewhere if (request.url, request.failure) != (REPORTS_PICTURE, "csp")]
    assert not [line for line in errors if REPORTS_PICTURE not in line]
    page.close()


def pixels(page, name="read-film"):
    height, width, text = page.locator(f"#{name}").evaluate(PIXELS)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 3).astype(int)


def drop(page, content, name="a.png"):
    transfer = page.evaluate_handle(DROP, [base64.b64encode(content).decode(), name])
    page.locator("#drop").dispatch_event("drop", {"dataTransfer": transfer})


def slide(page, panel, name, value):
    page.locator(f"#{panel} [name={name}]").fill(str(value))
    # Drawing happens in the next frame.
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def read(page):
    drop(page, png(film()))
    expect(page.locator("#read-facts")).to_contain_text("400 × 500 pixels")


def browse(page, row=0):
    page.get_by_role("link", name="Browse the store").click()
    page.get_by_role("button", name=f"Film {row}", exact=True).click()
    expect(page.locator("#case-title")).to_contain_text(f"Film {row}")


def test_a_dropped_film_is_read_and_shown_unchanged_when_the_map_is_off(page):
    read(page)
    expect(page.locator("#read-probabilities tr")).to_have_count(3)
    covered = pixels(page)
    slide(page, "read-display", "opacity", 0)
    assert np.array_equal(pixels(page), np.repeat(film()[..., None], 3, axis=2))
    # The map covers the square, in colour, and nothing far from it.
    changed = (covered != pixels(page)).any(axis=2)
    assert changed[SQUARE].mean() > 0.9
    assert not changed[:60].any()
    assert np.ptp(covered[SQUARE][15:-15, 15:-15], axis=-1).min() > 40


def test_more_opacity_moves_pixels_towards_the_colour(page):
    read(page)
    slide(page, "read-display", "opacity", 0)
    bare = pixels(page)[SQUARE]
    change = []
    for opacity in (0.25, 0.5, 1):
        slide(page, "read-display", "opacity", opacity)
        change.append(np.abs(pixels(page)[SQUARE] - bare).mean())
    assert change[0] < change[1] < change[2]
    # At the end of the scale and fully opaque, a pixel has the last of the colours.
    colours = page.request.get(f"{page.url.partition('#')[0]}api/about").json()["colours"]
    assert pixels(page)[150, 290].tolist() == colours[255]


def test_window_level_and_inversion_follow_the_formula(page):
    read(page)
    slide(page, "read-display", "opacity", 0)
    slide(page, "read-display", "window", 0.2)
    slide(page, "read-display", "level", 0.25)
    share = np.clip((film() / 255 - 0.15) / 0.2, 0, 1)
    assert np.abs(pixels(page)[..., 0] - 255 * share).max() <= 1
    page.locator("#read-display [name=invert]").check()
    slide(page, "read-display", "opacity", 0)
    assert np.abs(pixels(page)[..., 0] - 255 * (1 - share)).max() <= 1
    page.locator("#read-display [name=reset]").click()
    expect(page.locator("#read-display [name=window-words]")).to_have_text("100 %")


def test_dragging_on_the_film_changes_window_and_level(page):
    read(page)
    box = page.locator("#read-film").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 160, steps=4)
    page.mouse.up()
    assert float(page.locator("#read-display [name=window]").input_value()) < 0.95
    assert float(page.locator("#read-display [name=level]").input_value()) > 0.52


def test_a_file_that_is_not_a_film_or_too_large_is_reported(page, monkeypatch, address):
    read(page)
    drop(page, b"no film")
    expect(page.locator("#read-error")).to_contain_text("film: ")
    expect(page.locator("#result")).to_be_hidden()
    monkeypatch.setattr(server, "MAX_UPLOAD", 2**20)
    page.reload()
    expect(page.get_by_role("heading", name="Read a film")).to_be_visible()
    drop(page, bytes(2**20 + 1))
    expect(page.locator("#read-error")).to_have_text("the film is larger than 1 MB")
    drop(page, png(film()))
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#read-error")).to_be_hidden()


def test_the_overlay_is_downloaded(page, model):
    read(page)
    with page.expect_download() as started:
        page.get_by_role("link", name="Overlay (PNG)").click()
    assert Path(started.value.path()).read_bytes().startswith(b"\x89PNG")
    assert started.value.suggested_filename == "overlay.png"


def test_dicom_results_are_offered_for_a_dicom_film(page, cohort):
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    drop(page, sorted((cohort / "mimic-cxr").rglob("*.dcm"))[0].read_bytes(), "film.dcm")
    link = page.get_by_role("link", name="Structured report (DICOM)")
    expect(link).to_be_visible()
    page.get_by_role("checkbox", name="DICOM results without what identifies").check()
    assert link.get_attribute("href").endswith("/sr.dcm?deidentified=1")
    with page.expect_download() as started:
        link.click()
    assert Path(started.value.path()).read_bytes()[128:132] == b"DICM"
    assert started.value.suggested_filename == "sr.dcm"
    read(page)
    expect(link).to_have_count(0)


def test_a_film_is_chosen_from_a_dialog_and_examples_by_the_keyboard_alone(page):
    page.locator("#file").set_input_files({"name": "Doe_Jane.png", "mimeType": "image/png", "buffer": png(film())})
    expect(page.locator("#read-status")).to_contain_text("Read the film")
    assert "Doe" not in page.locator("body").inner_text()
    page.keyboard.press("Tab")
    for _ in range(30):
        if page.evaluate("document.activeElement.textContent") == "pneumonia":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#read-status")).to_contain_text("Read the example pneumonia")
    page.locator("#read-display [name=opacity]").focus()
    page.keyboard.press("Home")
    expect(page.locator("#read-display [name=opacity-words]")).to_have_text("0 %")
    page.keyboard.press("End")
    expect(page.locator("#read-display [name=opacity-words]")).to_have_text("100 %")


def test_every_control_is_reached_by_tab(page):
    read(page)
    browse(page)
    usable = """() => [...document.querySelectorAll("a[href], button, input, select, [tabindex='0']")]
      .filter(part => part.checkVisibility() && !part.disabled).length"""
    count = page.evaluate(usable)
    page.evaluate("document.activeElement.blur(); window.reached = new Set()")
    for _ in range(count + 12):
        page.keyboard.press("Tab")
        page.evaluate("window.reached.add(document.activeElement)")
    assert page.evaluate("window.reached.delete(document.body), window.reached.size") >= count


def test_the_scanpath_follows_the_time_slider(page):
    browse(page, 2)
    events = page.request.get(f"{page.url.partition('#')[0]}api/cases/2").json()["readings"][0]["events"]
    dot, seen = page.locator("#scanpath .gaze"), page.locator("#scanpath .fixation[visibility=visible]")
    expect(seen).to_have_count(len(events["t"]))
    for number in (0, 3, len(events["t"]) - 1):
        # Rounded up to the slider's step, so that the fixation has begun.
        page.locator("#time").fill(f"{np.ceil(events['t'][number] * 100) / 100:.2f}")
        expect(seen).to_have_count(number + 1)
        expect(dot).to_have_attribute("cx", json.dumps(events["x"][number]).removesuffix(".0"))
        expect(dot).to_have_attribute("cy", json.dumps(events["y"][number]).removesuffix(".0"))
    # Half-way between two fixations the eye is half-way.
    leaves, arrives = events["t"][1] + events["duration"][1], events["t"][2]
    middle = round((leaves + arrives) / 2, 2)
    page.locator("#time").fill(f"{middle:.2f}")
    share = (middle - leaves) / (arrives - leaves)
    expected = events["x"][1] + share * (events["x"][2] - events["x"][1])
    assert float(dot.get_attribute("cx")) == pytest.approx(expected, abs=1e-2)


def test_the_scanpath_lies_on_the_film(page):
    """The circle's middle on the screen is the fixation's pixel on the canvas."""
    browse(page, 2)
    case = page.request.get(f"{page.url.partition('#')[0]}api/cases/2").json()
    canvas = page.locator("#readers-film").bounding_box()
    circle = page.locator("#scanpath .fixation").nth(1).bounding_box()
    events = case["readings"][0]["events"]
    x = canvas["x"] + (events["x"][1] + 0.5) / case["width"] * canvas["width"]
    y = canvas["y"] + (events["y"][1] + 0.5) / case["height"] * canvas["height"]
    assert circle["x"] + circle["width"] / 2 == pytest.approx(x, abs=1.5)
    assert circle["y"] + circle["height"] / 2 == pytest.approx(y, abs=1.5)


def test_playing_moves_the_gaze_and_stops_at_the_end(page):
    browse(page, 1)
    page.locator("#speed").select_option("4")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.wait_for_timeout(300)
    first = page.locator("#scanpath .gaze").get_attribute("cx"), float(page.locator("#time").input_value())
    page.wait_for_timeout(600)
    second = page.locator("#scanpath .gaze").get_attribute("cx"), float(page.locator("#time").input_value())
    assert second[0] != first[0]
    assert second[1] > first[1]
    page.get_by_role("button", name="Pause").click()
    stopped = page.locator("#time").input_value()
    page.wait_for_timeout(150)
    assert page.locator("#time").input_value() == stopped


def test_phrases_move_the_slider_to_their_time_and_marks_are_drawn(page):
    browse(page, 1)
    case = page.request.get(f"{page.url.partition('#')[0]}api/cases/1").json()
    phrases = case["readings"][0]["phrases"]
    page.locator("#phrases button").nth(1).click()
    assert float(page.locator("#time").input_value()) == pytest.approx(phrases[1]["begin"], abs=0.011)
    expect(page.locator("#phrases button").nth(1)).to_have_attribute("aria-current", "true")
    name = case["regions"][0]["name"]
    page.locator("#marks").select_option(name)
    expect(page.locator("#scanpath .mark")).to_have_count(sum(region["name"] == name for region in case["regions"]))
    page.locator("#marks").select_option("")
    expect(page.locator("#scanpath .mark")).to_have_count(0)


def test_the_expected_scanpath_of_the_chosen_reader_is_drawn_on_read_and_stored_films(
    browser, make_page, scanpath_model
):
    def lies_where_it_is(page, name, prediction, number):
        events = prediction["scanpaths"][number]
        circles = page.locator(f"#{name} .fixation[visibility=visible]")
        expect(circles).to_have_count(len(events["x"]))
        shown = circles.evaluate_all(
            "all => all.map(circle => [+circle.getAttribute('cx'), +circle.getAttribute('cy')])"
        )
        assert shown == [list(point) for point in zip(events["x"], events["y"], strict=True)]
        box = f"-0.5 -0.5 {prediction['width']} {prediction['height']}"
        expect(page.locator(f"#{name}")).to_have_attribute("viewBox", box)

    with served(make_page, reads_with=scanpath_model) as address, opened(browser, address) as page:
        with page.expect_response("**/api/readings") as answer:
            read(page)
        lies_where_it_is(page, "read-scanpath", answer.value.json()["prediction"], 0)
        page.locator("#read-reader").select_option("Dr Elsewhere")
        lies_where_it_is(page, "read-scanpath", answer.value.json()["prediction"], 1)
        browse(page, 2)
        prediction = page.request.get(f"{address}/api/cases/2").json()["prediction"]
        lies_where_it_is(page, "expected-scanpath", prediction, 0)
        page.locator("#marks").select_option("*")
        page.locator("#expected-reader").select_option("Reader 1")
        lies_where_it_is(page, "expected-scanpath", prediction, 2)
        # The marks stay, and the chosen reader stays on the next film.
        expect(page.locator("#expected-scanpath .mark")).not_to_have_count(0)
        browse(page, 3)
        lies_where_it_is(page, "expected-scanpath", page.request.get(f"{address}/api/cases/3").json()["prediction"], 2)
        page.locator("#expected-reader").select_option("none: hide it")
        expect(page.locator("#expected-scanpath .fixation")).to_have_count(0)
        expect(page.locator("#scanpath .fixation")).not_to_have_count(0)


def test_films_are_filtered_and_stepped_through(page):
    browse(page)
    page.locator("#filters [name=label]").select_option("CHF")
    expect(page.locator("#found")).to_have_text("8 films found")
    rows = page.locator("#cases tbody button").all_text_contents()
    page.get_by_role("button", name=f"Film {rows[0]}", exact=True).click()
    page.get_by_role("button", name="Next film").click()
    expect(page.locator("#case-title")).to_contain_text(f"Film {rows[1]}")
    page.get_by_role("button", name="Film before").click()
    expect(page.locator("#case-title")).to_contain_text(f"Film {rows[0]}")
    page.locator("#survey-toggle").click()
    expect(page.locator("#survey-words")).to_have_text("The model has read 24 of 24 films.")
    page.locator("#filters [name=sort]").select_option("cc")
    found = page.request.get(f"{page.url.partition('#')[0]}api/cases?label=CHF&sort=cc").json()["cases"]
    expect(page.locator("#cases tbody button")).to_have_text([str(case["row"]) for case in found])
    cells = page.locator("#cases tbody tr td:nth-last-child(2)").all_text_contents()
    assert cells == [f"{case['cc']:.2f}" for case in found]


def test_a_report_is_shown_and_its_script_does_not_run(page):
    page.get_by_role("link", name="Reports").click()
    expect(page.frame_locator("#report").get_by_role("heading", name="A report")).to_be_visible()
    frame = page.frames[1]
    assert frame.title() == "r"


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    found = []
    for name in ("read", "browse", "reports"):
        if name == "read":
            read(page)
        elif name == "browse":
            browse(page, 1)
        else:
            page.get_by_role("link", name="Reports").click()
            expect(page.locator("#report")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if AXE.is_file():
            page.evaluate(AXE.read_text(encoding="utf-8"))
            violations = page.evaluate("axe.run({iframes: false}).then(result => result.violations)")
            found += [(name, violation["id"], violation["nodes"][0]["html"][:200]) for violation in violations]
    assert found == []
    if not AXE.is_file():
        pytest.skip("axe-core is not in build/axe; npm install --prefix build/axe axe-core")
