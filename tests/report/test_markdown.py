import re
from dataclasses import replace

import pytest

from tasks.modality.items import uri_of_text
from tasks.orchestration import artifact_key
from tasks.report.evidence import read_evidence
from tasks.report.markdown import decision_markdown, escape, gate_rows, model_card, report_markdown, text_samples
from tests.report.fixture_run import make_run


def test_the_decision_names_verdict_reasons_gates_and_the_report(tmp_path):
    text = decision_markdown(read_evidence(make_run(tmp_path, verdict="refused")))
    assert text.startswith("# ✕ Refused: clothing\n")
    assert "| min\\_class\\_recall | ✕ failed | 0.42 | 0.31 to 0.55 | 0.5 |" in text
    assert "report.html`" in text
    assert "The whole report](" not in text


def test_the_run_s_page_links_to_the_report_on_a_page_of_prefects_own(tmp_path):
    evidence = read_evidence(make_run(tmp_path))
    text = decision_markdown(evidence, "/artifacts/key/clothing-report")
    assert "[The whole report](/artifacts/key/clothing-report)" in text
    report = report_markdown(evidence, {"Confusion matrix": "![Confusion matrix](data:image/svg+xml;base64,AA)"})
    assert report.startswith("# clothing, version 3\n")
    assert "## Per class" in report or "## Where it errs" in report
    assert report.endswith("![Confusion matrix](data:image/svg+xml;base64,AA)\n")


def test_gate_rows_say_where_a_gate_does_not_apply(tmp_path):
    rows = gate_rows(read_evidence(make_run(tmp_path)))
    assert rows[-1]["result"] == "– not applicable"
    assert rows[-1]["value"] == "–"


def test_the_model_card_has_each_of_its_sections(tmp_path):
    text = model_card(read_evidence(make_run(tmp_path)))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## What it does",
        "## How to use it",
        "## How good it is",
        "## Gates",
        "## Where it errs",
        "## Can its probabilities be believed",
        "## Small changes of the picture",
        "## Speed and size",
        "## What it learned from",
        "## Would more labels help",
        "## Limits",
        "## Lineage",
    ]
    assert "# clothing, version 3" in text


def test_labels_cannot_break_a_table_or_bring_html(tmp_path):
    text = model_card(read_evidence(make_run(tmp_path, labels=("<script>x</script>", "a|b"), accuracy=0.5)))
    assert "<script" not in text
    assert "a\\|b" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a|b", "a\\|b"), ("<i>", "&lt;i&gt;"), ("two\nlines", "two lines"), ("snake_case", "snake\\_case")],
)
def test_escape(given, expected):
    assert escape(given) == expected


@pytest.mark.parametrize(("name", "key"), [("clothing", "clothing-gates"), ("my__model-2_", "my-model-2-gates")])
def test_artifact_keys_are_of_prefects_alphabet(name, key):
    assert artifact_key(name, "gates") == key


def test_of_texts_it_says_how_texts_are_used_and_shows_them_in_words(tmp_path):
    evidence = read_evidence(make_run(tmp_path))
    config = evidence.run.config.with_keys({"ingest.task": "text"})
    judged = [replace(p, uri=uri_of_text(f"a | text of {p.label}")) for p in evidence.judged]
    evidence = replace(evidence, run=replace(evidence.run, config=config), predictions=judged)
    card = model_card(evidence)
    assert "pipeline_tag: text-classification" in card
    assert "Tokenizer.from_file" in card
    assert "decode" not in card
    assert "| split | texts | accuracy |" in card
    own = re.sub(r"^\|.*(passed|failed|not applicable).*$", "", card, flags=re.MULTILINE)  # but for what gates said
    assert not re.search(r"\b(images?|pictures?|photographs?)\b", own, re.IGNORECASE)
    table = text_samples(evidence).splitlines()
    assert table[0] == "| text | predicted | probability | label |"
    assert table[2].startswith("| a \\| text of ")
    assert any("✕" in line for line in table)
    assert text_samples(replace(evidence, predictions=[])) == ""
