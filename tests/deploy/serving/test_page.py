"""The page for people, in a real browser."""

import base64
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import chromium
from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import encoded
from tests.deploy.serving.running import running

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


def file(content: bytes, name: str = "photo.jpg") -> dict:
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
