"""A model.onnx for texts as its users run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DecodeError, HeadstartError
from tasks.networks.classifier import Classifier
from tasks.publish.verify import verify_version
from tasks.workspace import Workspace
from tests.texts import MOODS, mood_model, publish_moods, tokenizer


def test_texts_of_any_length_are_classified_in_order():
    classifier = Classifier(mood_model(familiarity=True), tokenizer())
    texts = ["the ship was GOOD", "bad", "very very good train", "late", "a bad bad good ship"]
    found = list(classifier.classify_all([text.encode().strip for text in texts]))
    assert [MOODS[each.probabilities.argmax()] for each in found] == ["good", "bad", "good", "good", "bad"]
    assert [bool(each.familiar) for each in found] == [True, True, True, False, True]
    alone = [classifier.predict_one(classifier.read(text.encode())).probabilities for text in texts]
    assert np.array_equal(np.stack(alone), np.stack([each.probabilities for each in found]))
    with pytest.raises(DecodeError, match="it is empty"):
        classifier.read(b"  ")


def test_the_tokenizer_has_to_be_there_and_the_one_it_was_made_with(tmp_path: Path):
    folder = publish_moods(tmp_path)
    assert Classifier(folder / "model.onnx").task == "text"
    with pytest.raises(HeadstartError, match=r"needs its tokenizer\.json beside it"):
        Classifier(mood_model())
    (folder / "tokenizer.json").write_bytes(tokenizer().replace(b'"late"', b'"soon"'))
    with pytest.raises(HeadstartError, match=r"is not the one that .* was made with"):
        Classifier(folder / "model.onnx")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(HeadstartError, match=r"needs its tokenizer\.json beside it"):
        Classifier(folder / "model.onnx")


def test_a_version_verifies_with_its_tokenizer_and_not_without(tmp_path: Path):
    folder = publish_moods(tmp_path)
    workspace = Workspace(str(tmp_path))
    assert verify_version(workspace, "moods", 1).problems == []
    (folder / "tokenizer.json").write_bytes(b"{}")
    assert "digests: tokenizer.json has SHA-256" in verify_version(workspace, "moods", 1).problems[0]
