"""Sources of tensorflow-datasets: `tfds:NAME[/CONFIG][:VERSION]`.

Images keep their encoded bytes. They have no files, so each is written once into the workspace, under its digest:
`images/<first two digits>/<sha256>`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tasks.errors import SourceError
from tasks.ingest.entries import NO_LABEL, Entry, Ignored, Listing, clean_label, make_listing, split_of
from tasks.workspace import Workspace

SPEC = re.compile(r"tfds:(?P<name>[a-z]\w*)(?:/(?P<config>[^:]+))?(?::(?P<version>[\d.]+))?")
PROBE_TIMEOUT_S = 5
PIXEL_TYPES = ("uint8", "uint16")
WRITERS = 8


def list_tfds(source: str, workspace: Workspace) -> Listing:
    """Lists the entries of a data set of tensorflow-datasets, and prepares it first where necessary.

    The data set's `train`, `validation` and `test` are kept; images of other splits, such as `extra`, have no split.

    Raises:
        SourceError: an unknown data set, config or version; one without an image and a class label; or one that is
            not prepared and can't be downloaded now.
    """
    builder = _builder(source)
    image_key, label_key = _feature_keys(source, builder.info.features)
    _prepare(source, builder)
    names = builder.info.features[label_key].names

    def keep(item: tuple[str, str, bytes, int]) -> Entry | Ignored:
        split, path, content, label = item
        if label < 0:  # how tensorflow-datasets marks unlabelled images
            return Ignored(path, NO_LABEL)
        return Entry(path, _store(workspace, content), clean_label(names[label]), split_of(split))

    with ThreadPoolExecutor(WRITERS) as pool:
        listing = make_listing(pool.map(keep, _examples(builder, image_key, label_key)))
    if not listing.entries:
        raise SourceError(f"the source {source!r} has no labelled image in its splits {', '.join(builder.info.splits)}")
    return listing


def _builder(source: str) -> Any:
    tfds = _tfds()
    spec = SPEC.fullmatch(source)
    if not spec:
        raise SourceError(
            f"{source!r} is not of the form tfds:NAME[/CONFIG][:VERSION], such as tfds:tf_flowers or tfds:mnist:3.0.1"
        )
    name, config, version = spec["name"], spec["config"], spec["version"]
    full_name = name + (f"/{config}" if config else "") + (f":{version}" if version else "")
    try:
        return tfds.builder(full_name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"; similar names: {', '.join(near)}" if near else ""
        raise SourceError(
            f"tensorflow-datasets has no data set {name!r}, and none is prepared in {_data_dir()}{hint}"
        ) from None
    except (ValueError, AssertionError) as exc:
        raise SourceError(f"tensorflow-datasets can't give {source!r}: {str(exc).splitlines()[0]}") from exc


def _prepare(source: str, builder: Any) -> None:
    """Prepares the data set, if it is not prepared. Probes its host first: a download takes minutes to time out."""
    tfds = _tfds()
    if builder.is_prepared():
        return
    how = (
        f"prepare it where there is a network, with `uv run tfds build {source.removeprefix('tfds:')}`, and copy it "
        f"into {_data_dir()} (or name its folder with TFDS_DATA_DIR)"
    )
    urls = builder.url_infos or {}
    if urls and (fault := _unreachable(next(iter(urls)))):
        raise SourceError(f"the data set {source!r} is not prepared and can't be downloaded ({fault}); {how}")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the result
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as exc:
        raise SourceError(f"the data set {source!r} could not be prepared: {exc}; {how}") from exc


def _unreachable(url: str) -> str | None:
    """Why `url` can't be reached, or None where its host responds, even with an error page."""
    import requests

    try:
        requests.head(url, timeout=PROBE_TIMEOUT_S)
    except requests.RequestException as exc:
        return f"{url} does not respond: {type(exc).__name__}"
    return None


def _feature_keys(source: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the image and of the class label among the data set's features."""
    tfds = _tfds()
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    image_key = "image" if "image" in images else images[0] if len(images) == 1 else None
    label_key = "label" if "label" in labels else labels[0] if len(labels) == 1 else None
    if image_key is None or label_key is None:
        raise SourceError(
            f"the source {source!r} is not a set of images with one class label each; its features are "
            f"{', '.join(f'{key}: {type(feature).__name__}' for key, feature in features.items())}"
        )
    kind = np.dtype(features[image_key].np_dtype).name
    if kind not in PIXEL_TYPES:
        raise SourceError(
            f"the source {source!r} has images of {kind}, which tensorflow-datasets stores as bit patterns in PNGs; "
            f"allowed are {' and '.join(PIXEL_TYPES)}: save it as images of 8 or 16 bits, and give their folder"
        )
    return image_key, label_key


def _examples(builder: Any, image_key: str, label_key: str) -> Iterator[tuple[str, str, bytes, int]]:
    """(split, path, encoded image, class index) of every example, in the order of the data set."""
    tfds = _tfds()
    decoders = {image_key: tfds.decode.SkipDecoding()}
    for split in builder.info.splits:
        if builder.info.file_format.value == "array_record":
            examples: Any = builder.as_data_source(split=split, decoders=decoders)
        else:
            examples = tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders, shuffle_files=False))
        for index, example in enumerate(examples):
            yield split, f"{split}/{index:07d}", bytes(example[image_key]), int(example[label_key])


def _store(workspace: Workspace, content: bytes) -> str:
    """Writes one encoded image into the workspace and returns its URI."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"images/{sha256[:2]}/{sha256}"
    if not workspace.exists(path):
        workspace.write_bytes(path, content)
    return workspace.display(path)


def _data_dir() -> str:
    return os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"


def _tfds() -> Any:
    """The library, imported after Keras: all threads must enter the import cycle of Keras and TensorFlow there."""
    import keras  # noqa: F401
    import tensorflow_datasets

    return tensorflow_datasets
