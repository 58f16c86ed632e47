"""What extraction has to do: the rows of a snapshot that are not stored yet, cut into shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tasks.extract.engine import Answers, Engine, Task, embed
from tasks.modality.augmentation import Augmenter, Policy
from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.storage.feature_store import append_rows, stored_views
from tasks.storage.snapshots import read_snapshot

# Times the side that the graph resizes to, down to which a large JPEG may be decoded. Of photographs of 1,600 x 2,132
# pixels (enlarged, with noise) the features' squared error is then 0.0002 of their variance, and no label of 171
# changed; one of 12 megapixels takes 15 ms for 49. model.onnx is judged on images decoded whole, as its clients do it.
DECODED_SCALE = 2
PART_BYTES = 128 << 20  # of rows in memory: a shard's activations may be far more


def keys(extractor: FeatureExtractor) -> dict[str, str]:
    """The key of each of the trunk's outputs, by its name."""
    return {"features": extractor.key} | (
        {"activations": extractor.activations_key} if extractor.activations_key else {}
    )


def missing_tasks(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, policy: Policy) -> list[Task]:
    """The images of the snapshot that lack a row, with the views and outputs that they lack.

    Wanted are view 0 of every image and the policy's views of training images; and boundary activations of what is
    trained on or stops the training, but not of test images.
    """
    table = read_snapshot(run.workspace, snapshot.id, ["sha256", "uri", "split"])
    sha256s, uris, views = table["sha256"].tolist(), table["uri"].tolist(), policy.views + 1
    wanted = np.zeros((len(table), views), bool)
    wanted[:, 0] = True
    wanted[(table["split"] == "train").to_numpy()] = True
    lacking = {
        output: wanted & ~stored_views(run.workspace, key, sha256s, views) for output, key in keys(extractor).items()
    }
    if "activations" in lacking:
        lacking["activations"][(table["split"] == "test").to_numpy()] = False
    todo = np.logical_or.reduce(list(lacking.values()))
    return [
        Task(
            sha256=sha256s[row],
            uri=uris[row],
            views=tuple(np.flatnonzero(todo[row]).tolist()),
            outputs=tuple(name for name, rows in lacking.items() if rows[row].any()),
        )
        for row in np.flatnonzero(todo.any(axis=1)).tolist()
    ]


def cut(tasks: Sequence[Task], shard_images: int) -> list[list[Task]]:
    """Shards of at most `shard_images` images, as even as can be."""
    count = -(-len(tasks) // shard_images)
    return [list(tasks[len(tasks) * i // count : len(tasks) * (i + 1) // count]) for i in range(count)]


def embed_shard(
    run: Run,
    extractor: FeatureExtractor,
    policy: Policy,
    engine: Engine,
    shard: Sequence[Task],
    on_image: Callable[[], None] = lambda: None,
) -> int:
    """Embeds one shard into a part of each store, or into several of `PART_BYTES`, each atomically.

    Returns how many images it has.
    """
    augmenter = Augmenter(policy) if any(task.views != (0,) for task in shard) else None
    embedded = embed(
        shard,
        engine,
        augmenter,
        workers=run.config.extract.workers,
        max_pixels=run.config.ingest.max_pixels,
        enough_px=DECODED_SCALE * extractor.image_size_px,
        on_image=on_image,
    )
    waiting: list[tuple[Task, Answers]] = []
    waiting_bytes = 0
    for task, answers in embedded:
        waiting.append((task, answers))
        waiting_bytes += sum(rows.nbytes for rows in answers.values())
        if waiting_bytes >= PART_BYTES:
            _append(run, extractor, waiting)
            waiting, waiting_bytes = [], 0
    _append(run, extractor, waiting)
    return len(shard)


def _append(run: Run, extractor: FeatureExtractor, embedded: Sequence[tuple[Task, Answers]]) -> None:
    """Writes the rows of some images, as one part of each output's store."""
    for output, key in keys(extractor).items():
        rows = [(task, answers[output]) for task, answers in embedded if output in answers]
        if rows:
            sha256s = [task.sha256 for task, _ in rows for _ in task.views]
            views = [view for task, _ in rows for view in task.views]
            append_rows(run.workspace, key, sha256s, views, np.concatenate([values for _, values in rows]))
