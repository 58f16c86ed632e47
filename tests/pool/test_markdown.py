"""A batch on its page in Prefect: images as small pictures, texts in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from tasks.modality.items import uri_of_text
from tasks.pool.batches import write_batch
from tasks.pool.markdown import batch_markdown
from tasks.pool.selection import RANDOM, UNSURE
from tasks.records import Batch, Pool
from tests import photos
from tests.runs import make_run


def page_of(folder: Path, uri: str, task: str) -> str:
    run = make_run(folder / "w", "/pool")
    run = replace(run, config=run.config.with_keys({"ingest.task": task}))
    rows = {
        "sha256": [f"{number:064x}" for number in range(2)],
        "path": ["line 7", "line 8"],
        "uri": [uri, str(folder / "gone.txt")],
        "reason": [UNSURE, RANDOM],
        "label": "a|b",
        "probability": 0.5,
        "second_label": "shoe",
        "second_probability": 0.4,
        "near_uris": [[]] * 2,
        "near_labels": [[]] * 2,
    }
    write_batch(run.workspace, "batch", pd.DataFrame(rows))
    pool = Pool(version=3, images=1000, faults=1, embedded=1000, folder="pool")
    return batch_markdown(run, pool, Batch(reasons={UNSURE: 1, RANDOM: 1}, seen=1000, folder="batch"))


def test_texts_are_shown_in_words_and_nothing_speaks_of_images(tmp_path: Path):
    page = page_of(tmp_path, uri_of_text("where is | my <b>card</b>?"), "text")
    assert "| where is \\| my &lt;b&gt;card&lt;/b&gt;? | a\\|b 50.0 % | shoe 40.0 % | line 7 |" in page
    assert "| - | a\\|b 50.0" in page  # what can't be read any more
    assert "data:" not in page
    assert "image" not in page
    assert "picture" not in page


def test_images_are_shown_as_pictures(tmp_path: Path):
    picture = photos.save(tmp_path / "a.jpg", photos.photo(1, size=(300, 200)))
    page = page_of(tmp_path, str(picture), "image")
    assert page.count("![line 7](data:image/jpeg;base64,") == 1
    assert "2 images of" in page
