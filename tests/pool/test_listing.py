"""A pool is a folder, a bucket or a table; labels play no part."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pandas as pd
import pytest

from tasks.errors import SourceError
from tasks.pool.listing import list_pool
from tests.photos import encoded, photo, save
from tests.runs import make_run


def test_a_folder_gives_every_image_below_it_and_counts_the_rest(tmp_path: Path):
    save(tmp_path / "pool/a.jpg", photo(1))
    save(tmp_path / "pool/deep/er/b.png", photo(2))
    (tmp_path / "pool/notes.txt").write_text("x")
    found = list_pool(make_run(tmp_path / "w", tmp_path / "pool"))
    assert [(entry.path, entry.label) for entry in found.entries] == [("a.jpg", ""), ("deep/er/b.png", "")]
    assert list(found.left_out) == ["notes.txt"]


def test_a_bucket_is_listed():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/unlabelled/a.jpg", encoded(photo(1)))
    [entry] = list_pool(make_run("memory://w", "memory://unlabelled")).entries
    assert entry.uri == "memory:///unlabelled/a.jpg"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "semicolon.csv"])
def test_a_table_names_paths_of_which_each_counts_once(tmp_path: Path, suffix: str):
    table = pd.DataFrame({"Path": ["b, c.jpg", "a.jpg", "a.jpg"], "label": ["", "cat", None]})
    file = tmp_path / f"pool.{suffix}"
    if suffix == "parquet":
        table.to_parquet(file)
    elif suffix == "jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_csv(file, index=False, sep=";" if "semicolon" in suffix else ",")
    found = list_pool(make_run(tmp_path / "w", file))
    assert [(entry.path, entry.uri) for entry in found.entries] == [
        ("a.jpg", str(tmp_path / "a.jpg")),
        ("b, c.jpg", str(tmp_path / "b, c.jpg")),
    ]


def test_a_table_in_a_bucket_leads_to_nothing_outside_of_it():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/lists/pool.csv", b"path\n/etc/passwd\n../secret.jpg\nok.jpg\n")
    found = list_pool(make_run("memory://w", "memory://lists/pool.csv"))
    assert [entry.path for entry in found.entries] == ["ok.jpg"]
    assert [item.path for item in found.rejected] == ["/etc/passwd", "../secret.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent", None, "does not exist"),
        ("pool.csv", "file,label\na.jpg,x\n", "no column 'path'; found file, label"),
        ("pool.jsonl", "{", "can't be read"),
        ("pool.xml", "<a/>", "of an unknown kind"),
        ("folder/notes.txt", "x", "has no image; left out notes.txt"),
    ],
)
def test_what_is_no_pool_is_named_with_what_is_allowed(tmp_path: Path, name: str, content: str | None, says: str):
    file = tmp_path / name
    if content is not None:
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    with pytest.raises(SourceError, match=says):
        list_pool(make_run(tmp_path / "w", file.parent if "/" in name else file))
