"""next.html: self-contained, every picture named, no word of a user's obeyed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tasks.pool.page import SHOWN, render_page
from tasks.pool.selection import RANDOM, UNSURE
from tasks.records import Pool
from tests import photos
from tests.browser import chromium
from tests.report.test_page import HOSTILE, Outline
from tests.runs import make_run


def page_of(folder: Path, rows: int = 3, label: str = "hat", path: str = "a.jpg") -> str:
    picture = str(photos.save(folder / "a.jpg", photos.photo(1, size=(300, 200))))
    batch = pd.DataFrame(
        {
            "sha256": [f"{number:064x}" for number in range(rows)],
            "path": path,
            "uri": [picture, *[str(folder / "gone.jpg")] * (rows - 1)],
            "reason": [UNSURE] * (rows - 1) + [RANDOM],
            "label": label,
            "probability": 0.5,
            "second_label": "shoe",
            "second_probability": 0.4,
            "near_uris": [[picture, picture, "gone"]] * rows,
            "near_labels": [[label, "shoe", label]] * rows,
        }
    )
    pool = Pool(version=3, images=1000, faults=1, embedded=1000, folder="labelling/shapes")
    return render_page(make_run(folder / "w", "/pool"), pool, batch, {path: "the file is empty"})


def test_the_page_stands_alone_and_names_every_picture(tmp_path: Path):
    outline = Outline(page_of(tmp_path))
    assert outline.open == []
    assert not outline.attributes("script")
    links = [a.get("href") or a.get("src") or "" for _, a in outline.seen if "href" in a or "src" in a]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert all(attributes.get("alt") for attributes in outline.attributes("img"))
    text = " ".join(outline.text)
    assert "can’t be" in text  # of the picture that is gone
    assert "the file is empty" in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_words_of_users_are_text(tmp_path: Path, hostile: str):
    outline = Outline(page_of(tmp_path, label=hostile, path=hostile))
    assert outline.open == []
    assert not outline.attributes("script")
    assert hostile in " ".join(outline.text)


def test_a_large_batch_shows_its_first_images_and_says_so(tmp_path: Path):
    page = page_of(tmp_path, rows=SHOWN + 11)
    assert page.count('class="picture"') == SHOWN + 1
    assert f"The first {SHOWN} of {SHOWN + 10}" in page


def test_no_width_makes_the_page_move_sideways(tmp_path: Path):
    file = tmp_path / "next.html"
    file.write_text(page_of(tmp_path, label="x" * 80, path="deep/" * 30))
    with chromium() as browser:
        for width in (1200, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
