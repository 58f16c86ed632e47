"""Tables that fit into a page of Prefect, whose cells do not break by themselves."""

from __future__ import annotations

import pytest

from tasks.report.cells import LETTERS, PADDING, escaped, lines, narrowed
from tasks.report.evidence import read_evidence
from tasks.report.markdown import decision_markdown, report_markdown
from tests.report.fixture_run import make_run


def letters_of(row: str) -> float:
    """The widest line of each cell of a table's row, and its padding."""
    cells = [cell.strip() for cell in row.replace("\\", "").strip("|").split(" | ")]
    return sum(max(map(len, cell.split("<br>"))) + PADDING for cell in cells)


def test_the_widest_columns_are_broken_and_the_others_stay():
    row = ("a text of many words " * 20, "short", "card_payment_wrong_exchange_rate")
    [[text, short, label]] = narrowed(("text", "b", "label"), [row])
    assert (short, label) == ("short", "card\\_payment\\_wrong\\_exchange\\_rate")
    assert text.count("<br>") > 3
    assert text.replace("<br>", " ") == row[0].strip()
    assert letters_of(f"| {text} | {short} | {label} |") <= LETTERS


def test_a_table_that_fits_stays_as_it_is():
    rows = [("a|b", "1 of 2")]
    assert narrowed(("x", "y"), rows) == escaped(("x", "y"), rows) == [["a\\|b", "1 of 2"]]


@pytest.mark.parametrize(
    ("text", "letters", "expected"),
    [
        ("", 5, [""]),
        ("one two three", 7, ["one two", "three"]),
        ("card_payment_wrong", 8, ["card_", "payment_", "wrong"]),
        ("a/b/c.jpg", 4, ["a/b/", "c.jpg"]),
        ("unbreakable", 4, ["unbreakable"]),
        ("12\u202f% of all", 5, ["12\u202f%", "of", "all"]),
    ],
)
def test_lines_end_behind_words_and_the_parts_of_names(text: str, letters: int, expected: list[str]):
    assert lines(text, letters) == expected


def test_what_a_user_wrote_stays_inert():
    [[cell]] = narrowed(("x",), [("<b>" + "word " * 40,)])
    assert "<b>" not in cell
    assert cell.startswith("&lt;b&gt;word")


def test_the_tables_of_a_run_fit_into_the_page(tmp_path):
    labels = ("a_class_with_quite_a_long_name_indeed", "another_class_with_a_name_as_long")
    evidence = read_evidence(make_run(tmp_path, labels=labels, champion_accuracy=0.8, accuracy=0.7))
    for page in (decision_markdown(evidence), report_markdown(evidence, {})):
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert len(rows) > 10
        assert max(map(letters_of, rows)) <= LETTERS
        assert "- **onnx\\_parity**: labels agree on all 372 images" in page
