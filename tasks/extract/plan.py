"""What extraction has to do: the images of a snapshot that have no row yet, cut into shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tasks.artifacts import Run, SnapshotRef, TrunkRef
from tasks.augment.policy import Augmenter, Policy
from tasks.extract.engine import Task, embed
from tasks.features import append_rows, feature_store
from tasks.onnx_session import open_session
from tasks.tables import read_table


def missing_tasks(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, policy: Policy) -> list[Task]:
    """The images of the snapshot that lack a row: view 0 of all, and the policy's views of training images."""
    table = read_table(run.workspace, snapshot.table_path, ["sha256", "uri", "split"])
    known = feature_store(run.workspace, trunk.recipe).keys()
    tasks = []
    for sha256, uri, split in table.itertuples(index=False, name=None):
        wanted = range(policy.views + 1) if split == "train" else range(1)
        views = tuple(view for view in wanted if (sha256, view) not in known)
        if views:
            tasks.append(Task(sha256, uri, views))
    return tasks


def cut(tasks: Sequence[Task], shard_images: int) -> list[list[Task]]:
    """Shards of at most `shard_images` images, as even as can be."""
    count = -(-len(tasks) // shard_images)
    return [list(tasks[len(tasks) * i // count : len(tasks) * (i + 1) // count]) for i in range(count)]


def embed_shard(
    run: Run, trunk: TrunkRef, policy: Policy, shard: Sequence[Task], on_image: Callable[[], None] = lambda: None
) -> int:
    """Embeds one shard into one part of the store, atomically. Returns the rows written."""
    session = open_session(run.workspace.local_file(trunk.onnx_path))
    augmenter = Augmenter(policy) if any(task.views != (0,) for task in shard) else None
    rows = list(
        embed(
            shard,
            session,
            augmenter,
            workers=run.config.extract.workers,
            max_pixels=run.config.ingest.max_pixels,
            on_image=on_image,
        )
    )
    sha256s = [task.sha256 for task, _ in rows for _ in task.views]
    views = [view for task, _ in rows for view in task.views]
    features = np.concatenate([values for _, values in rows])
    append_rows(run.workspace, trunk.recipe, sha256s, views, features)
    return len(sha256s)
