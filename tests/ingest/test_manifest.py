"""Lists as spreadsheets and programs write them: what is unambiguous is read, and what is not is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import SourceError
from tasks.ingest.sources import list_source
from tests.photos import photo, save
from tests.runs import make_run


def listing(tmp_path, name, content: bytes | str, **ingest):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list_source(make_run(tmp_path / "w", tmp_path / name, config={"ingest": ingest}))


def labels(found):
    return [entry.label for entry in found.entries]


@pytest.mark.parametrize(
    "content",
    [
        "path;label\na.jpg;Köter\n",
        "path\tlabel\na.jpg\tKöter\n",
        "Path,Label\r\na.jpg,Köter\r\n",
        ' LABEL , path,split\nKöter,a.jpg,"train"\n',
        "\ufeffpath,label\na.jpg,Köter\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_separators_headers_and_encodings_that_are_unambiguous_are_read(tmp_path, content, encoding):
    found = listing(tmp_path, "list.csv", content.lstrip("\ufeff").encode(encoding))
    assert [(entry.path, entry.label) for entry in found.entries] == [("a.jpg", "Köter")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("path,label\na.jpg,Köter\n".encode("cp1252"), r"not utf-8 \(byte 18 is 0xf6\): save it as UTF-8"),
        (
            b"file;class\na;b\n",
            r"found file, class \(read as utf-8, separated by ';'\); its first line has to be path,l",
        ),
    ],
)
def test_what_is_not_says_what_was_found_and_how_to_mend_it(tmp_path, content, says):
    with pytest.raises(SourceError, match=says):
        listing(tmp_path, "list.csv", content)


def test_labels_of_any_type_in_jsonl(tmp_path):
    given = ["cat", 7, 1.0, True, 0.5, ["a", "b"], {"a": 1}, float("nan"), None, "  "]
    lines = [json.dumps({"path": f"{number}.jpg", "label": label}) for number, label in enumerate(given)]
    found = listing(tmp_path, "list.jsonl", "\n".join(lines))
    assert labels(found) == ["cat", "7", "1", "True"]
    assert [item.path for item in found.rejected] == ["4.jpg", "5.jpg", "6.jpg", "7.jpg"]
    assert found.rejected[1].reason == (
        "line 6 of the manifest: its label is ['a', 'b']: a text or a whole number is allowed"
    )
    assert set(found.left_out) == {"8.jpg", "9.jpg"}


def test_numbers_and_gaps_of_a_parquet_column(tmp_path):
    table = pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [1.0, float("nan"), None], "split": [None] * 3})
    pq.write_table(table, tmp_path / "list.parquet")
    found = list_source(make_run(tmp_path / "w", tmp_path / "list.parquet"))
    assert labels(found) == ["1"]
    assert [item.reason for item in found.rejected] == [
        "line 2 of the manifest: its label is nan: a text or a whole number is allowed"
    ]
    assert list(found.left_out) == ["c.jpg"]


def test_a_path_that_is_no_text_is_refused_by_its_number(tmp_path):
    found = listing(tmp_path, "list.jsonl", '{"path": "a.jpg", "label": "x"}\n{"path": ["b"], "label": "x"}\n')
    assert [(item.path, item.reason) for item in found.rejected] == [
        ("(line 2 of the manifest)", "its path is ['b']: a text is allowed")
    ]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    text = json.dumps({"path": "a\u2028b.jpg", "label": "x\u0085"}, ensure_ascii=False)
    found = listing(tmp_path, "list.jsonl", text + "\r\n")
    assert [entry.path for entry in found.entries] == ["a\u2028b.jpg"]


def test_relative_paths_start_at_the_images_root_and_may_lead_above_a_local_list(tmp_path):
    save(tmp_path / "media/cat/a.jpg", photo(1))
    (tmp_path / "lists").mkdir()
    [entry] = listing(
        tmp_path / "lists", "list.csv", "path,label\ncat/a.jpg,cat\n", images_root=str(tmp_path / "media")
    ).entries
    assert entry.uri == str(tmp_path / "media/cat/a.jpg")
    [entry] = listing(tmp_path / "lists", "list.csv", "path,label\n../media/cat/a.jpg,cat\n").entries
    assert entry.uri == str(tmp_path / "media/cat/a.jpg")


def test_a_line_that_is_no_object_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"line 2 is no JSON object, but '\[1\]'"):
        listing(tmp_path, "list.jsonl", '{"path": "a.jpg", "label": "x"}\n[1]\n')
