"""The page of the review, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from tasks.storage.corrections import read_corrections
from tasks.workspace import Workspace
from tests.browser import chromium
from tests.deploy.review.reviews import LABELS, make_review, make_text_review, reviewing


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def place(tmp_path) -> Workspace:
    return make_review(tmp_path)


@pytest.fixture
def page(browser, place) -> Iterator[Page]:
    """The page of photographs, open."""
    with opened(browser, place) as page:
        yield page


@contextmanager
def opened(browser, place: Workspace) -> Iterator[Page]:
    """A page, open; the test fails on any error or dialog in it, and on any request to elsewhere."""
    with reviewing(place) as (url, _):
        page = browser.new_page(viewport={"width": 390, "height": 800})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda r: None if r.url.startswith((url, "data:")) else faults.append(r.url))
        page.goto(url)
        expect(page.locator("#card")).to_be_visible()
        yield page
        assert faults == []
        page.close()


def standing(place: Workspace) -> list[str]:
    return [row.label for row in read_corrections(place).standing().values()]


def test_the_keyboard_alone_goes_through_all_cards(page: Page, place: Workspace):
    progress, question = page.locator("#progress"), page.locator("#question")
    expect(progress).to_have_text("0 of 2 likely wrong · 0 of 2 less likely")
    expect(question).to_have_text("Is “cat” right?")
    expect(page.locator("#why")).to_contain_text("90 % likely wrong")
    expect(page.locator("#copies li")).to_have_text(["dog"])
    page.keyboard.press("t")
    expect(progress).to_contain_text("1 of 2 likely wrong")
    assert standing(place) == ["dog"]
    page.keyboard.press("s")  # skipped: nothing is written
    page.keyboard.press("r")
    expect(progress).to_contain_text("1 of 2 less likely")
    page.keyboard.press("d")
    expect(page.locator("#end-title")).to_have_text("1 skipped, the rest is done.")
    expect(page.locator("#end-text")).to_contain_text("1 right, 1 relabelled, 1 dropped")
    expect(page.locator("#command")).to_contain_text("--name shapes")
    assert standing(place) == ["dog", "cat", "drop"]
    page.keyboard.press("u")  # the last one, which is shown again
    expect(page.locator("#card")).to_be_visible()
    expect(progress).to_contain_text("1 of 2 less likely")
    assert standing(place) == ["dog", "cat"]
    page.keyboard.press("c")
    page.keyboard.type("owl")
    page.keyboard.press("Enter")
    expect(page.locator("#end")).to_be_visible()
    assert standing(place) == ["dog", "cat", LABELS[2]]


def test_decisions_are_there_after_a_reload_and_can_be_undone(page: Page, place: Workspace):
    page.get_by_role("button", name="Right: cat").click()
    expect(page.locator("#progress")).to_contain_text("1 of 2 likely wrong")
    page.reload()
    expect(page.locator("#progress")).to_contain_text("1 of 2 likely wrong")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#progress")).to_contain_text("0 of 2 likely wrong")
    assert standing(place) == []


def test_two_pages_do_not_overwrite_each_other(browser, page: Page, place: Workspace):
    other = browser.new_page()
    other.goto(page.url)
    expect(other.locator("#card")).to_be_visible()
    other.keyboard.press("d")
    expect(other.locator("#progress")).to_contain_text("1 of 2 likely wrong")
    page.keyboard.press("t")
    expect(page.get_by_role("alert")).to_contain_text("somebody else decided about this one (dropped)")
    assert standing(place) == ["drop"]
    page.keyboard.press("t")  # now it is known, and can be changed
    expect(page.get_by_role("alert")).to_be_hidden()
    deadline = time.monotonic() + 30
    while standing(place) != ["dog"]:  # the alert goes when the key is pressed, the answer comes later
        assert time.monotonic() < deadline, standing(place)
        page.wait_for_timeout(50)
    other.close()


def test_names_are_text_and_nothing_is_wider_than_a_telephone(page: Page):
    page.get_by_role("button", name="Another class").click()
    expect(page.get_by_role("button", name=LABELS[2])).to_be_visible()
    assert page.locator("#choices b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("Escape")
    expect(page.locator("#photo")).to_be_in_viewport()
    expect(page.get_by_role("button", name="Drop the image")).to_be_in_viewport()


def test_a_server_that_is_gone_is_said_and_nothing_is_lost(page: Page, place: Workspace):
    page.context.set_offline(True)
    page.keyboard.press("t")
    expect(page.get_by_role("alert")).to_contain_text("can’t be reached")
    expect(page.locator("#progress")).to_contain_text("0 of 2 likely wrong")
    page.context.set_offline(False)
    page.keyboard.press("t")
    expect(page.locator("#progress")).to_contain_text("1 of 2 likely wrong")


def test_texts_are_read_in_words(browser, tmp_path):
    place = make_text_review(tmp_path)
    with opened(browser, place) as page:
        expect(page.locator("#text")).to_have_text("the ship was <b>late</b>")
        expect(page.locator("#neighbours li span")).to_have_text(["a good ship", "very late\u2028again"])
        expect(page.locator("#photo")).to_be_hidden()
        expect(page.get_by_role("button", name="Drop the text")).to_be_visible()
        assert page.locator("#card").get_by_role("img").count() == 0
        page.keyboard.press("t")
        expect(page.locator("#end")).to_be_visible()
    assert standing(place) == ["bad"]


def test_the_same_words_in_two_classes_are_asked_about_once_with_both_shown(browser, tmp_path):
    place = make_text_review(tmp_path, same_words=["So late", "so LATE!"])
    with opened(browser, place) as page:
        expect(page.locator("#question")).to_have_text("“good_mood” or “bad”?")
        expect(page.locator("#text")).to_have_text("So late")
        expect(page.locator("#why")).to_have_text(
            "The same words lie in 2 classes (line 10: good_mood; line 11: bad), so all of them are left out until you "
            "decide, which counts for all."
        )
        expect(page.locator("#copies-title")).to_have_text("The same, and the label that it has there")
        expect(page.locator("#copies li")).to_have_text(["so LATE!bad"])
        expect(page.locator("#progress")).to_have_text("0 of 2 likely wrong")
        page.keyboard.press("r")
        expect(page.locator("#progress")).to_have_text("1 of 2 likely wrong")
        assert standing(place) == ["good_mood", "good_mood"]
        page.keyboard.press("u")
        expect(page.locator("#progress")).to_have_text("0 of 2 likely wrong")
        assert standing(place) == []


def test_the_very_same_file_in_two_classes_names_both(browser, tmp_path):
    with opened(browser, make_review(tmp_path, conflict=True)) as page:
        expect(page.locator("#why")).to_have_text(
            "The very same file lies in 2 classes (cat/both.jpg: cat; dog/both.jpg: dog), so it is left out until you "
            "decide."
        )
        expect(page.locator("#copies-part")).to_be_hidden()
