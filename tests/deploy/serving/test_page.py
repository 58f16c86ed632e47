"""The page for people, in a real browser."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser import chromium
from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import encoded
from tests.deploy.serving.running import running
from tests.deploy.serving.test_explaining import trained
from tests.texts import publish_moods

HOSTILE = ("<img src=x onerror=alert(1)>", "green & 'quoted'", "blue 大")
DROP = """([content, type, target]) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
    const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
    const event = type === "drop" ? new DragEvent("drop", options) : new ClipboardEvent("paste", options);
    document.getElementById(target).dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    from tests.deploy.serving.models import colour_model

    workspace = tmp_path_factory.mktemp("served")
    publish(workspace, 1, content=colour_model(HOSTILE, familiarity=True))
    with running(workspace) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, url) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


@contextmanager
def opened(browser, url: str) -> Iterator[Page]:
    """The page, open; the test fails on any error or dialog in it, and on any request to elsewhere."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else faults.append(r.url))
    page.goto(url)
    yield page
    assert faults == []
    page.close()


def file(content: bytes, name: str = "photo.jpg") -> Any:
    return {"name": name, "mimeType": "image/jpeg", "buffer": content}


def test_it_names_the_model_and_its_version(page):
    expect(page.locator("#name")).to_have_text("colours")
    expect(page.locator("#about")).to_have_text("version 1, 3 classes")
    expect(page.locator("footer")).to_contain_text("goes to this server only, and is not kept.")


def test_a_chosen_picture_is_shown_with_its_classes(page):
    page.set_input_files("#file", file(encoded("green")))
    expect(page.locator("#label")).to_have_text(HOSTILE[1])
    expect(page.locator("#classes li")).to_have_count(3)
    expect(page.locator("#detail")).to_contain_text("64 × 48 px")
    expect(page.get_by_role("img", name="photo.jpg")).to_be_visible()
    expect(page.locator("#unfamiliar")).to_be_hidden()


def test_a_picture_unlike_what_it_was_trained_on_is_said_to_be_so(page):
    page.set_input_files("#file", file(encoded("dim")))
    expect(page.locator("#unfamiliar")).to_contain_text("unlike anything that the model was trained on")
    page.set_input_files("#file", file(encoded("green")))
    expect(page.locator("#unfamiliar")).to_be_hidden()
    expect(page.get_by_role("progressbar", name=HOSTILE[1])).to_be_visible()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page, way):
    content = base64.b64encode(encoded("blue")).decode()
    page.evaluate(DROP, [content, way, "drop"])
    expect(page.locator("#label")).to_have_text(HOSTILE[2])


def test_class_names_are_text_never_markup(page):
    page.set_input_files("#file", file(encoded("red")))
    expect(page.locator("#label")).to_have_text(HOSTILE[0])
    assert page.locator("#result img").count() == 0


def test_a_file_that_is_no_picture_gets_the_servers_reason(page):
    page.set_input_files("#file", file(b"only a text"))
    expect(page.get_by_role("alert")).to_contain_text("not an image of a supported kind")
    expect(page.locator("#result")).to_be_hidden()
    page.set_input_files("#file", file(encoded("red")))
    expect(page.locator("#result")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_nothing_is_wider_than_a_telephone(page):
    page.set_input_files("#file", file(encoded("red", size_px=(1600, 900))))
    expect(page.locator("#result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_it_can_be_used_from_the_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"


def test_the_reasons_are_asked_for_when_they_are_opened_and_again_for_another_picture(page):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/explain") else None)
    page.set_input_files("#file", file(encoded("green")))
    expect(page.locator("#detail")).to_contain_text("answered in")
    assert asked == []
    page.get_by_text("Why this answer?").click()
    expect(page.locator("#layers img")).to_have_count(2)
    expect(page.get_by_role("img", name=f"where the evidence for {HOSTILE[1]} lies")).to_be_visible()
    expect(page.locator("#evidence")).to_contain_text(f"less sure of {HOSTILE[1]}.")
    expect(page.locator("#no-near")).to_contain_text("this server can read the published model alone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_text("Why this answer?").click()
    page.get_by_text("Why this answer?").click()
    expect(page.locator("#reasons")).to_be_visible()
    assert len(asked) == 1
    page.set_input_files("#file", file(encoded("red")))
    expect(page.locator("#label")).to_have_text(HOSTILE[0])
    expect(page.locator("#reasons")).to_be_hidden()
    page.get_by_text("Why this answer?").click()
    expect(page.locator("#evidence")).to_contain_text(f"less sure of {HOSTILE[0]}.")
    assert len(asked) == 2


def test_the_heat_covers_the_photograph_and_is_lifted_under_the_pointer(page):
    page.set_input_files("#file", file(encoded("green", size_px=(300, 500))))
    page.get_by_text("Why this answer?").click()
    heat, photograph = page.locator("#layers .heat"), page.locator("#layers img:not(.heat)")
    expect(heat).to_be_visible()
    assert heat.bounding_box() == photograph.bounding_box()
    box = heat.bounding_box()
    assert box["height"] / box["width"] == pytest.approx(500 / 300, rel=0.02)
    heat.scroll_into_view_if_needed()
    box = heat.bounding_box()
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).className", middle) == "heat"
    page.mouse.move(0, 0)
    expect(heat).to_have_css("opacity", "1")
    page.mouse.move(*middle)
    expect(heat).to_have_css("opacity", "0")


def test_a_reason_that_can_not_be_had_is_said_and_asked_for_again(page):
    page.set_input_files("#file", file(encoded("green")))
    expect(page.locator("#result")).to_be_visible()
    refusal = {"status": 503, "json": {"error": "other explanations were under way"}}
    page.route("**/explain", lambda route: route.fulfill(**refusal), times=1)
    page.get_by_text("Why this answer?").click()
    expect(page.get_by_role("status")).to_have_text("other explanations were under way")
    expect(page.locator("#reasons")).to_be_hidden()
    page.get_by_text("Why this answer?").click()
    page.get_by_text("Why this answer?").click()
    expect(page.locator("#reasons")).to_be_visible()
    expect(page.locator("#why-problem")).to_be_empty()


def test_the_nearest_training_photographs_stand_beside_each_other_with_their_labels(browser, tmp_path):
    with running(trained(tmp_path)) as url, opened(browser, url) as page:
        page.set_input_files("#file", file(encoded("blue")))
        page.get_by_text("Why this answer?").click()
        expect(page.locator("#near li")).to_have_text(["blue"] * 3)
        expect(page.get_by_role("img", name="labelled blue")).to_have_count(3)
        tops = {box["y"] for each in page.locator("#near img").all() if (box := each.bounding_box())}
        assert len(tops) == 1
        loaded = "[...document.querySelectorAll('#near img')].every((each) => each.naturalWidth > 0)"
        page.wait_for_function(loaded)
        expect(page.locator("#no-near")).to_be_empty()


def test_of_a_text_the_words_are_shaded(browser, tmp_path):
    publish_moods(tmp_path)
    with running(tmp_path, name="moods") as url, opened(browser, url) as page:
        page.locator("#text").fill("the <b>ship</b> was bad")
        page.locator("#write button").click()
        page.get_by_text("Why this answer?").click()
        expect(page.locator("#words")).to_have_text("the <b>ship</b> was bad")
        words = page.locator("#words span")
        expect(words.last).to_have_attribute("style", "--shade: 100%;")
        expect(words.first).to_have_attribute("style", "--shade: 0%;")
        colours = [each.evaluate("each => getComputedStyle(each).backgroundColor") for each in words.all()]
        assert len(set(colours)) > 1
        expect(page.locator("#evidence")).to_be_hidden()
        expect(page.locator("#no-heat")).to_be_hidden()
        expect(page.locator("#similar")).to_contain_text("Nearest training texts")
