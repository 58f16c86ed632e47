import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.records import SPLITS, Run
from tasks.report.evidence import read_evidence
from tasks.report.page import write_report
from tasks.storage.quarantine import LeftOut, quarantine
from tests.browser import chromium
from tests.report.fixture_run import make_run

BESIDE = {"model_card.md", "suspects.json"}
VOID = {"meta", "link", "img", "br", "input"}
HOSTILE = ("<script>alert(1)</script>", "a&b \"q\" 'x' `y` | z", "Größe 大", "x" * 120)


class Outline(HTMLParser):
    """The tags of a page, and whether each that opens also closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def render(run: Run) -> str:
    return run.workspace.read_bytes(write_report(run)).decode()


def section_of(page: str, name: str) -> str:
    return page.split(f'<section id="{name}">')[1].split("</section>")[0]


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Outline(page).text))


def test_the_page_stands_alone(tmp_path):
    page = render(make_run(tmp_path))
    outline = Outline(page)
    assert outline.open == []
    assert not outline.attributes("script")
    links = [a.get("href") or a.get("src") or "" for _, a in outline.seen if "href" in a or "src" in a]
    assert all(link.startswith(("data:", "#")) or link in BESIDE for link in links)
    assert "url(" not in page
    assert "@import" not in page


def test_every_picture_has_a_text_in_its_place(tmp_path):
    outline = Outline(render(make_run(tmp_path, champion_accuracy=0.85)))
    assert outline.attributes("img")
    assert all(attributes.get("alt") for attributes in outline.attributes("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in outline.attributes("svg"))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("promoted", "Promoted version 3"),
        ("refused", "Refused"),
        ("unchanged", "Unchanged version 3"),
        ("invalid-data", "Invalid data"),
    ],
)
def test_the_verdict_and_its_reasons_come_first(tmp_path, verdict, words):
    run = make_run(tmp_path, verdict=verdict)
    text = text_of(render(run))
    assert words in text
    reason = run.workspace.read_json(run.path("summary.json"))["reasons"][0]
    assert 0 < text.index(reason) < text.index("Class by class")


def test_users_strings_are_escaped_everywhere(tmp_path):
    page = render(make_run(tmp_path, labels=HOSTILE, champion_accuracy=0.8))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>bold" not in page  # a quarantined file's name
    assert "Größe 大" in page
    assert Outline(page).open == []


def test_the_worst_mistakes_are_shown_most_confident_first(tmp_path):
    page = render(make_run(tmp_path, accuracy=0.6))
    gallery = page.split('id="mistakes"')[1].split("</section>")[0]
    probabilities = [float(p) for p in re.findall(r'class="said"[^>]*>([\d.]+)', gallery)]
    assert len(probabilities) == 24
    assert probabilities == sorted(probabilities, reverse=True)
    assert gallery.count("data:image/jpeg") == 24


def test_a_champion_brings_the_pictures_that_flipped(tmp_path):
    page = render(make_run(tmp_path, accuracy=0.8, champion_accuracy=0.7))
    assert "Against the champion, version 2" in page
    assert "Won: now right" in page
    assert "Lost: right before" in page
    assert "+1.1 points, at least −0.9 and at most +3.1" in page


def test_what_is_new_since_the_champion_is_counted_by_class(tmp_path):
    text = text_of(section_of(render(make_run(tmp_path, champion_accuracy=0.8)), "changes"))
    assert "11 images came, 1 went and 1 got another label" in text
    assert "dress 109 120 10 0 1 0" in text  # before, now, new, gone, relabelled to it and away from it


def test_what_is_confused_more_and_less_than_by_the_champion(tmp_path):
    text = text_of(section_of(render(make_run(tmp_path, accuracy=0.8, champion_accuracy=0.7)), "champion"))
    assert "What is confused more often than by the champion, and less" in text
    assert "Class by class; a small p is a class that got worse" in text


def test_whether_more_labels_would_help_is_said_with_the_classes_that_gained(tmp_path):
    text = text_of(section_of(render(make_run(tmp_path)), "forecast"))
    assert "twice as many would bring about 2.5 points more" in text
    assert "gained most: dress (+7.0), hat (+7.0)" in text


def test_robustness_calibration_latency_and_size_are_shown(tmp_path):
    page = render(make_run(tmp_path))
    assert "rotation 5 degrees to either side" in text_of(section_of(page, "robustness"))
    assert "from 8.1\u202f% to 2.1\u202f%" in re.sub(r"<[^>]*>", "", section_of(page, "learning"))
    assert "7.2\u202fms" in page
    assert "9.4\u202fMB" in page


def test_who_overrode_the_gates_and_why_stands_at_the_top(tmp_path):
    run = make_run(tmp_path, verdict="refused")
    decision = run.workspace.read_json(run.path("decision.json"))
    override = {"by": "Ada <b>", "reason": "the new camera counts", "at": "2026-11-21T10:00:00+00:00"}
    run.workspace.write_json(run.path("decision.json"), {**decision, "override": override})
    page = render(run)
    said = "Published by Ada <b> on 2026-11-21, against the gates: the new camera counts"
    assert said in text_of(page.split("<nav")[0])
    assert "&lt;b&gt;" in run.workspace.read_bytes(run.path("model_card.md")).decode()


def test_what_all_images_say_is_shown_kind_by_kind(tmp_path):
    section = text_of(section_of(render(make_run(tmp_path, champion_accuracy=0.85)), "champion"))
    assert "By all 3 409 images" in section
    assert "87.2 % before, 89.0 % now: better" in section
    assert "new the champion's file, and cross-fitted predictions 300 +4.3 ± 4.1" in section
    assert "right on 83.0 % of the 300 new images, and expected 86.0 %" in section


def test_a_first_model_has_no_comparison(tmp_path):
    page = render(make_run(tmp_path))
    assert "Against the champion" not in page
    assert "– not applicable" in page


def test_quarantine_counts_kinds_of_reasons_and_shows_the_pictures_there_are(tmp_path):
    run = make_run(tmp_path)
    section = section_of(render(run), "quarantine")
    assert "4 files were left out" in text_of(section)
    assert "the image is truncated or damaged 2" in text_of(section)
    assert section.count("data:image/jpeg") == 1
    assert "12 bytes not processed" in section


def test_what_an_earlier_run_met_first_is_left_out_of_this_one_too(tmp_path):
    run = make_run(tmp_path)
    later = replace(run, run_id="20261122T093000-clothing-1a2b3c")
    quarantine(later, [LeftOut("hat/half.jpg", "aa" * 32, "hat", "the image is truncated or damaged")])
    section = text_of(section_of(render(later), "quarantine"))
    assert "1 file was left out" in section
    assert "shirt/notes.jpg" not in section


def test_suspects_are_shown_with_picture_given_and_suggested_label(tmp_path):
    page = render(make_run(tmp_path))
    section = section_of(page, "suspects")
    assert section.count("data:image/jpeg") == 24
    first = text_of(section.split("</li>")[0])
    assert "given dress 3.1" in first
    assert "rather hat 91.5" in first
    assert 'href="suspects.json"' in section
    assert "12 of these 24 are held out" in text_of(section)


def test_corrections_are_shown_by_image_with_who_decided(tmp_path):
    run = make_run(tmp_path)
    assert 'id="corrections"' not in render(run)
    made = {"sha256": "a" * 64, "given": "hat", "by": "Ada", "when": "2026-11-20T10:00:00", "reason": "<b>no hat</b>"}
    changed = [{**made, "path": f"hat/{n}.jpg", "label": "shirt"} for n in range(2)]
    dropped = [{**made, "path": "hat/9.jpg", "label": "drop", "reason": ""}]
    said = ["line 7: there is no class 'bird' in the source"]
    found = {"changed": changed, "dropped": dropped, "without_effect": said, "absent": 3}
    run.workspace.write_json(run.path("corrections.json"), found)
    section = section_of(render(run), "corrections")
    text = text_of(section)
    assert "2 labels were corrected and 1 image was dropped" in text
    assert "3 decisions are about images that this source does not hold" in text
    assert "line 7: there is no class 'bird'" in text
    assert "hat dropped hat/9.jpg Ada 2026-11-20 –" in text
    assert "<b>no hat" not in section


def test_label_issues_lead_to_the_review(tmp_path):
    page = render(make_run(tmp_path))
    assert page.count("headstart review clothing") == 2  # among the next steps, and where the issues are


def test_a_run_without_suspects_or_quarantine_has_no_such_sections(tmp_path):
    run = make_run(tmp_path)
    for name in ("suspects.json", "quarantine.jsonl"):
        run.workspace.remove(run.path(name))
    page = render(run)
    assert 'id="suspects"' not in page
    assert 'id="quarantine"' not in page


def test_what_became_of_the_classes_is_stated(tmp_path):
    run = make_run(tmp_path, champion_accuracy=0.8)
    decision = run.workspace.read_json(run.path("decision.json"))
    classes = {"shared": ["hat", "dress"], "added": ["shoes"], "removed": ["cap"], "renamed": {"top": "shirt"}}
    run.workspace.write_json(run.path("decision.json"), {**decision, "classes": classes})
    text = text_of(section_of(render(run), "champion"))
    for words in ("the 2 classes that both know", "New shoes", "Removed cap", "Renamed top → shirt"):
        assert words in text


def test_expectations_not_met_stand_before_those_that_were(tmp_path):
    text = text_of(render(make_run(tmp_path)))
    places = [text.index(words) for words in ("2 expectations met, 1 not", "at least 32 px wide", "There are images")]
    assert places == sorted(places)
    assert "! warning at least 32 4 images, such as hat/31.jpg (31)" in text


def test_settings_that_differ_from_the_defaults_are_marked(tmp_path):
    assert "0.01 (set by you)" in text_of(render(make_run(tmp_path)))


@pytest.mark.parametrize(
    "absent",
    ["summary.json", "decision.json", "history.json", "validation.json", "predictions.parquet", "all"],
)
def test_an_absent_file_is_named_and_the_rest_is_shown(tmp_path, absent):
    run = make_run(tmp_path)
    names = run.workspace.names(run.path("").rstrip("/")) if absent == "all" else [absent]
    for name in names:
        run.workspace.remove(run.path(name))
    text = text_of(render(run))
    assert all(name in text for name in names if name.endswith((".json", ".parquet")))
    assert "# clothing" in run.workspace.read_bytes(run.path("model_card.md")).decode()


def test_pictures_that_are_gone_leave_a_note(tmp_path):
    run = make_run(tmp_path, accuracy=0.5)
    for file in (tmp_path / "photos" / "drawn").iterdir():
        file.unlink()
    assert "can’t be<br>read any more" in render(run)


@pytest.mark.parametrize("classes", [2, 40, 41, 200])
def test_any_number_of_classes_fits_in_two_megabytes(tmp_path, classes):
    labels = [f"species {index:03d}, a name of ordinary length" for index in range(classes)]
    run = make_run(tmp_path, labels=labels, test_images=800, accuracy=0.7)
    page = render(run)
    assert len(page.encode()) < 2_000_000
    assert Outline(page).open == []
    assert ("data:image/png" in page) == (classes > 40)


def test_data_docs_are_linked_where_they_exist(tmp_path):
    run = make_run(tmp_path)
    assert "Great Expectations" not in render(run)
    run.workspace.write_bytes(run.path("data_docs/index.html"), b"<html></html>")
    assert 'href="data_docs/index.html"' in render(run)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path):
    run = make_run(tmp_path)
    assert render(run) == render(run)


def test_what_auto_tried_has_a_table_and_what_it_chose_is_marked(tmp_path):
    run = make_run(tmp_path)
    assert '<section id="choice">' not in render(run)
    settings = [{"backbone.name": name, "augment.views": 0} for name in ("vgg16", "embedded")]
    cost = {"latency_ms": 3.0, "size_mb": 2.3, "seconds": 4.0}
    record = {
        "run_id": "an-earlier-run",
        "validation_images": 60,
        "chosen": settings[1],
        "optimism": 0.0123,
        "trials": [
            {"settings": settings[0], "loss": None, "accuracy": None, "fits": False, **cost},
            {"settings": settings[1], "loss": 0.4, "accuracy": 0.9, "fits": True, **cost},
        ],
    }
    summary = run.workspace.read_json(run.path("summary.json"))
    lineage = {**summary["lineage"], "auto": record}
    run.workspace.write_json(run.path("summary.json"), {**summary, "lineage": lineage})
    page = render(run)
    text = text_of(section_of(page, "choice"))
    assert "an-earlier-run" in text
    assert "1.2 points lower" in text
    assert re.search(r"vgg16 0 3\.0 2\.3 over budget embedded 0 0\.400 90\.0 % 3\.0 2\.3 ✓ chosen", text)
    assert "trials" not in section_of(page, "run")


HARMFUL = ("\x1b[2Jred", "gpj\u202e.exe", "\x9bgreen")


def test_no_control_character_gets_into_the_page_or_the_card(tmp_path):
    run = make_run(tmp_path, labels=HARMFUL, accuracy=0.5)
    page, card = render(run), run.workspace.read_bytes(run.path("model_card.md")).decode()
    for text in (page, card):
        assert not set(text) & set("\x1b\x9b\u202e")
    assert "␛[2Jred" in page
    assert "\\u202e.exe" in page


def test_a_browser_may_run_and_load_nothing_from_the_page(tmp_path):
    page = render(make_run(tmp_path))
    [policy] = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert page.index("Content-Security-Policy") < page.index("<style")


def test_a_browser_shows_the_page_under_its_policy_and_stops_a_script(tmp_path):
    run = make_run(tmp_path, champion_accuracy=0.8)
    path = Path(run.workspace.path(run.path("report.html")))
    render(run)
    said = []
    with chromium() as browser:
        tab = browser.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(path.as_uri())
        assert said == []  # nothing of its own is refused
        assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        path.write_text(path.read_text().replace("</body>", "<script>document.title = 'run'</script></body>"))
        tab.goto(path.as_uri())
        assert tab.title() != "run"
        assert "Content Security Policy" in " ".join(said)


def test_a_passed_gate_shows_the_bound_that_it_passed_by(tmp_path):
    run = make_run(tmp_path)
    decision = run.workspace.read_json(run.path("decision.json"))
    gate = {"name": "calibration error", "passed": True, "value": 0.1287, "threshold": 0.05, "reason": "so"}
    gate |= {"interval": [0.031, 0.22], "rule": "at most", "judged": 0.031, "unit": "share"}
    run.workspace.write_json(run.path("decision.json"), {**decision, "gates": [gate]})
    shown = "12.9 % 3.1 % to 22.0 % at most 5.0 %, judged by 3.1 %"
    assert shown in text_of(section_of(render(run), "gates")).replace("\u202f", " ")
    card = run.workspace.read_bytes(run.path("model_card.md")).decode().replace("\u202f", " ")
    assert "| ✓ passed | 12.9 % | 3.1 % to 22.0 % | at most 5.0 %, judged by 3.1 % |" in card


def test_only_mistakes_on_test_images_are_shown_as_such(tmp_path):
    run = make_run(tmp_path, accuracy=0.6, test_images=40)
    section = section_of(render(run), "mistakes")
    shown = set(re.findall(r'class="path" title="([^"]*)"', section))
    by_split = {split: {p.path for p in read_evidence(run).predictions if p.split == split} for split in SPLITS}
    assert shown
    assert shown <= by_split["test"]
    assert not shown & by_split["validation"]
    assert "Wrong on test images, and sure of it." in text_of(section)


def test_the_page_is_no_wider_than_a_phone(tmp_path):
    labels = [f"class {number:02d}, of a long name" for number in range(12)]
    run = make_run(tmp_path, labels=labels, accuracy=0.8, champion_accuracy=0.7)
    path = Path(run.workspace.path(write_report(run)))
    with chromium() as browser:
        tab = browser.new_page()
        tab.goto(path.as_uri())
        for width_px in (320, 360, 390):
            tab.set_viewport_size({"width": width_px, "height": 800})
            assert tab.evaluate("document.documentElement.scrollWidth") == width_px
