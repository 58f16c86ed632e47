"""`headstart explain`: the class, where its evidence lies, and the training photographs that are most alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.pool.explanation import Explanation
from tasks.pool.explanation_page import render_explanations
from tests import photos
from tests.flows.cli.test_prediction import headstart
from tests.pool.colours import NAME, publish_colours
from tests.report.test_page import HOSTILE, Outline
from tests.runs import make_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the workspace w, the labelled photos, and a new green photograph."""
    publish_colours(tmp_path)
    photos.save(tmp_path / "new.jpg", photos.photo(777, hue=1))
    return tmp_path


def explained(capfd: Capture, place: Path, *images: object, status: int = 0) -> dict[str, Any]:
    capfd.readouterr()
    done = headstart("explain", NAME, *images, "--workspace", place / "w", "--json")
    assert done.exit_code == status, done.stderr
    return json.loads(capfd.readouterr().out)


def test_a_photograph_has_its_class_its_heat_and_three_training_photographs(place: Path, capfd: Capture):
    answer = explained(capfd, place, place / "new.jpg")
    [found] = answer["explanations"]
    assert (answer["name"], answer["version"], found["label"]) == (NAME, 1, "green")
    assert found["probability"] == found["classes"][0]["probability"] > 0.3
    assert np.shape(found["heat"]) == (7, 7)
    assert [near["label"] for near in found["nearest"]] == ["green"] * 3
    page = Path(answer["page"]).read_text()
    assert 'class="heat"' in page
    assert "nearest training photographs" in page


def test_it_says_what_predict_says(place: Path, capfd: Capture):
    answer = explained(capfd, place, place / "photos/2blue")
    capfd.readouterr()
    assert headstart("predict", NAME, place / "photos/2blue", "--workspace", place / "w", "--json").exit_code == 0
    predicted = json.loads(capfd.readouterr().out)["predictions"]
    for found, expected in zip(answer["explanations"], predicted, strict=True):
        assert (found["image"], found["label"]) == (expected["image"], expected["label"])
        assert found["probability"] == pytest.approx(expected["probability"], abs=1e-6)


def test_a_training_photograph_is_not_its_own_neighbour_and_test_photographs_are_nobodys(place: Path, capfd: Capture):
    trained = sorted((place / "photos/0red").glob("*.jpg"))
    for found in explained(capfd, place, *trained)["explanations"]:
        near = [each["image"] for each in found["nearest"]]
        assert len(near) == 3
        assert found["image"] not in near
        assert not any(Path(uri).stem.endswith("3") for uri in near)


def test_files_that_can_not_be_used_are_named_and_the_others_explained(place: Path, capfd: Capture):
    (place / "broken.jpg").write_bytes(photos.truncated_jpeg())
    answer = explained(capfd, place, place / "broken.jpg", place / "new.jpg", place / "gone.jpg", status=2)
    assert [each["image"] for each in answer["explanations"]] == [str(place / "new.jpg")]
    assert [fault["image"] for fault in answer["faults"]] == [str(place / "broken.jpg"), str(place / "gone.jpg")]
    assert explained(capfd, place, place / "gone.jpg", status=2)["page"] is None


def test_the_terminal_names_the_class_and_the_page(place: Path, capfd: Capture):
    capfd.readouterr()
    to = place / "why.html"
    assert headstart("explain", NAME, place / "new.jpg", "--to", to, "--workspace", place / "w", "-q").exit_code == 0
    first, second, last = capfd.readouterr().out.splitlines()
    assert first.split()[-2:] == ["green", str(place / "new.jpg")]
    assert second.split() == ["like", "green,", "green,", "green"]
    assert last.split() == ["page", str(to)]
    assert to.is_file()


def test_training_photographs_that_are_gone_still_have_their_labels(place: Path, capfd: Capture):
    explained(capfd, place, place / "new.jpg")  # which stores their rows
    for path in (place / "photos").rglob("*.jpg"):
        path.unlink()
    [found] = explained(capfd, place, place / "new.jpg")["explanations"]
    assert [near["label"] for near in found["nearest"]] == ["green"] * 3
    assert found["heat"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["absent", "new.jpg"], "no model 'absent' has been published"),
        ([NAME, "empty"], "there is no image in the folder empty"),
        ([NAME, "new.jpg", "--to", "x.txt"], "ending with .html; found x.txt"),
        ([NAME], "Missing argument"),
    ],
)
def test_a_mistake_is_a_plain_error(place: Path, monkeypatch, args: list[str], says: str):
    (place / "empty").mkdir()
    monkeypatch.chdir(place)
    done = headstart("explain", *args, "--workspace", place / "w")
    assert done.exit_code == 2
    assert says in done.stderr.replace("\n", " ")


def page_of(folder: Path, text: str = "hat", heat: np.ndarray | None = None) -> str:
    picture = photos.save(folder / "a.jpg", photos.photo(1, size=(300, 200)))
    given = {"width_px": 300, "height_px": 200, "heat": heat, "near": ((str(picture), text), ("gone.jpg", "shoe"))}
    explanations = [
        Explanation(image=image, classes=((text, 0.7), ("shoe", 0.2)), familiarity=share, **given)
        for image, share in ((str(picture), 0.9), (text, 0.1))
    ]
    return render_explanations(make_run(folder / "w", ""), "3", explanations, {text: "the file is empty"})


def test_the_page_stands_alone_and_names_every_picture(tmp_path: Path):
    outline = Outline(page_of(tmp_path, heat=np.eye(7)))
    assert outline.open == []
    assert page_of(tmp_path, heat=None).count("unlike anything it was trained on") == 1
    assert not outline.attributes("script")
    links = [a.get("href") or a.get("src") or "" for _, a in outline.seen if "href" in a or "src" in a]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert all(attributes.get("alt") for attributes in outline.attributes("img"))
    assert sum(link.startswith("data:image/png") for link in links) == 1  # none where the picture is gone
    assert "70.0\u202f%" in " ".join(outline.text)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_words_of_users_are_text(tmp_path: Path, hostile: str):
    outline = Outline(page_of(tmp_path, text=hostile))
    assert outline.open == []
    assert not outline.attributes("script")
    assert hostile in " ".join(outline.text)


def test_a_model_without_maps_shows_neighbours_alone_and_says_so(tmp_path: Path):
    page = page_of(tmp_path)
    assert "has no heat map" in page
    assert 'class="heat"' not in page
    assert "nearest training photographs" in page
