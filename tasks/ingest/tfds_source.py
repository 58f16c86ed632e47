"""Sources of tensorflow-datasets: `tfds:NAME[/CONFIG][:VERSION]`.

The encoded bytes are kept as the data set holds them, never decoded and encoded again. They have no files of their
own, so each is written once into the workspace, under its digest: `images/<first two>/<sha256>`.
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

from tasks.errors import SourceError
from tasks.ingest.entries import SPLIT_FOLDERS, Entry, Listing, Rejected, clean_label
from tasks.workspace import Workspace

SPEC = re.compile(r"tfds:(?P<name>[a-z]\w*)(?:/(?P<config>[^:]+))?(?::(?P<version>[\d.]+))?")
PROBE_TIMEOUT_S = 5
WRITERS = 8


def list_tfds(source: str, workspace: Workspace) -> Listing:
    """The entries of a data set of tensorflow-datasets, which is prepared first where it has to be.

    The data set's `train`, `validation` and `test` are respected; images of other splits (`extra`, say) have none.

    Raises:
        SourceError: an unknown data set, config or version; one without an image and a class label; or one that is
            not prepared and can't be downloaded now.
    """
    builder = _builder(source)
    image_key, label_key = _feature_keys(source, builder.info.features)
    _prepare(source, builder)
    names = builder.info.features[label_key].names
    entries: list[Entry] = []
    rejected: list[Rejected] = []

    def keep(item: tuple[str, str, bytes, int]) -> Entry | Rejected:
        split, path, content, label = item
        if label < 0:  # how tensorflow-datasets marks the unlabelled images of a competition's test set
            return Rejected(path, "the data set gives it no label")
        return Entry(path, _store(workspace, content), clean_label(names[label]), SPLIT_FOLDERS.get(split))

    with ThreadPoolExecutor(WRITERS) as pool:
        for kept in pool.map(keep, _examples(builder, image_key, label_key)):
            (entries if isinstance(kept, Entry) else rejected).append(kept)  # type: ignore[arg-type]
    if not entries:
        raise SourceError(f"the source {source!r} has no labelled image in its splits {', '.join(builder.info.splits)}")
    return Listing(tuple(entries), tuple(rejected))


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
        hint = f"; near to it: {', '.join(near)}" if near else ""
        raise SourceError(
            f"tensorflow-datasets knows no data set {name!r}, nor is one prepared in {_data_dir()}{hint}"
        ) from None
    except (ValueError, AssertionError) as exc:
        raise SourceError(f"tensorflow-datasets can't give {source!r}: {str(exc).splitlines()[0]}") from exc


def _prepare(source: str, builder: Any) -> None:
    """Prepares the data set where it is not. Whether its host answers is tried first: a download takes minutes to
    give up."""
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
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the command's answer
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as exc:
        raise SourceError(f"the data set {source!r} could not be prepared: {exc}; {how}") from exc


def _unreachable(url: str) -> str | None:
    """Why nothing answers at `url`, or None where something does (an error page, too, is an answer)."""
    import requests

    try:
        requests.head(url, timeout=PROBE_TIMEOUT_S)
    except requests.RequestException as exc:
        return f"no answer from {url}: {type(exc).__name__}"
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
    return image_key, label_key


def _examples(builder: Any, image_key: str, label_key: str) -> Iterator[tuple[str, str, bytes, int]]:
    """(split, path, encoded image, class index) of every example, in the data set's own order."""
    for split in builder.info.splits:
        for index, example in enumerate(_encoded_split(builder, split, image_key)):
            yield split, f"{split}/{index:07d}", bytes(example[image_key]), int(example[label_key])


def _encoded_split(builder: Any, split: str, image_key: str) -> Any:
    tfds = _tfds()

    decoders = {image_key: tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "array_record":
        return builder.as_data_source(split=split, decoders=decoders)
    return tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders, shuffle_files=False))


def _store(workspace: Workspace, content: bytes) -> str:
    """Keeps one encoded image in the workspace and returns what reads it."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"images/{sha256[:2]}/{sha256}"
    if not workspace.exists(path):
        workspace.write_bytes(path, content)
    return workspace.display(path)


def _data_dir() -> str:
    return os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"


def _tfds() -> Any:
    """The library, imported after Keras: its circle with TensorFlow is entered from there by every thread."""
    import keras  # noqa: F401
    import tensorflow_datasets

    return tensorflow_datasets
