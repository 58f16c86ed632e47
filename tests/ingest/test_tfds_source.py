import hashlib
import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tasks.errors import SourceError
from tasks.ingest.sources import list_source
from tasks.modality.items import read_bytes
from tests.photos import encoded, photo
from tests.runs import make_run

PHOTOS = [encoded(photo(seed)) for seed in range(7)]


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Seven JPEGs in two classes; the last is unlabelled, as in a competition's test set."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        label = tfds.features.ClassLabel(names=["round", "square"])
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
        )

    def _split_generators(self, dl_manager):
        return {"extra": self._generate_examples(range(4)), "test": self._generate_examples(range(4, 7))}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, {"image": PHOTOS[number], "label": -1 if number == 6 else number % 2}


class TinyFloats(tfds.core.GeneratorBasedBuilder):
    """Images of floating-point numbers, as of depths or of physical units."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(4, 4, 1), dtype=np.float32)
        label = tfds.features.ClassLabel(names=["near", "far"])
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image, "label": label})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": np.full((4, 4, 1), 0.5, np.float32), "label": 0}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "x"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    logging.getLogger("absl").setLevel(logging.ERROR)
    return folder


@pytest.fixture
def list_tfds(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    return lambda source: list_source(make_run(tmp_path / "w", source))


def test_encoded_bytes_labels_and_splits_are_kept(list_tfds, capsys):
    listing = list_tfds("tfds:tiny_shapes:1.2.0")
    assert {read_bytes(entry.uri) for entry in listing.entries} == set(PHOTOS[:6])
    for entry in listing.entries:
        content = read_bytes(entry.uri)
        assert entry.uri.endswith(hashlib.sha256(content).hexdigest())
        number = PHOTOS.index(content)
        assert entry.label == ("round", "square")[number % 2]
        assert entry.split == (None if number < 4 else "test")
    assert list(listing.left_out.values()) == ["it has no label"]
    assert capsys.readouterr().out == ""


def test_a_prepared_data_set_is_listed_the_same_again(list_tfds):
    assert list_tfds("tfds:tiny_shapes").entries == list_tfds("tfds:tiny_shapes:1.2.0").entries


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("tfds:tf_flower", "no data set 'tf_flower'.*similar names: tf_flowers"),
        ("tfds:tiny_shapes:9.9.9", "only: 1.2.0"),
        ("tfds:", "not of the form tfds:NAME"),
        ("tfds:tiny_floats", "images of float32, which .* stores as bit patterns .* allowed are uint8 and uint16"),
        ("tfds:tiny_texts", "one class label each; its features are text: Text"),
    ],
)
def test_what_can_not_be_a_source_says_why(list_tfds, source, says):
    with pytest.raises(SourceError, match=says):
        list_tfds(source)


def test_without_a_network_an_unprepared_data_set_says_how_to_prepare_it(list_tfds, monkeypatch):
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(SourceError, match=r"can't be downloaded.*uv run tfds build tf_flowers.*TFDS_DATA_DIR"):
        list_tfds("tfds:tf_flowers")
