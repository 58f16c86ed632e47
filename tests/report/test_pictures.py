import base64
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tasks.report.evidence import Evidence, read_evidence
from tasks.report.pictures import choose_samples, confusion_picture, sample_picture
from tests.report.fixture_run import make_run

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def evidence(tmp_path) -> Evidence:
    return read_evidence(make_run(tmp_path))


def drawn(picture: str | None) -> ElementTree.Element:
    assert picture is not None
    assert picture.startswith("data:image/svg+xml;base64,")
    return ElementTree.fromstring(base64.b64decode(picture.split(",")[1]))


def test_the_confusion_matrix_stands_alone_with_its_colours(evidence):
    svg = drawn(confusion_picture(evidence))
    assert svg.tag == f"{SVG}svg"
    assert ".right" in (svg.findtext(f"{SVG}style") or "")
    counted = sum(int(text.text or 0) for text in svg.iter(f"{SVG}text") if text.get("class") in ("on", "count"))
    assert counted == len(evidence.judged)


def test_samples_show_mistakes_first_then_right_ones_of_several_classes(evidence):
    chosen = choose_samples(evidence.judged)
    wrong = [prediction for prediction in chosen if not prediction.correct]
    assert chosen[: len(wrong)] == wrong
    assert 0 < len(wrong) <= 6
    assert len(set(chosen)) == len(chosen) == 12
    assert len({prediction.label for prediction in chosen[len(wrong) :]}) > 1


def test_each_sample_says_what_the_model_says_and_a_mistake_its_label(evidence):
    svg = drawn(sample_picture(evidence))
    texts = [text.text or "" for text in svg.iter(f"{SVG}text")]
    for prediction in choose_samples(evidence.judged):
        assert any(text.startswith(prediction.predicted[:13]) for text in texts)
    assert sum(text.startswith("label: ") for text in texts) == sum(
        not prediction.correct for prediction in choose_samples(evidence.judged)
    )


def test_a_run_that_judged_nothing_has_no_picture(evidence):
    nothing = replace(evidence, predictions=[])
    assert confusion_picture(nothing) is None
    assert sample_picture(nothing) is None


def test_labels_cannot_bring_markup(tmp_path):
    evidence = read_evidence(make_run(tmp_path, labels=("<script>x</script>", "a|b"), accuracy=0.5))
    for picture in (confusion_picture(evidence), sample_picture(evidence)):
        assert not list(drawn(picture).iter(f"{SVG}script"))
