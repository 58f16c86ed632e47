"""The DAG: validation, augmentation, a feature extractor's features, a fine-tuned head, gates and ONNX export, as
tasks."""

# No `from __future__ import annotations` here: a worker loads this file by its path, where Prefect finds the schema of
# the parameters in annotations that are types, and not in those that are text.

from dataclasses import replace
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.run_state import ended, started
from flows.search import auto
from flows.slot import one_slot
from flows.summary import Stopwatch, fingerprint, invalid_data, settled, summarise
from flows.warmup import preload, preload_if_new
from tasks.augment.task import choose_policy
from tasks.config import Config
from tasks.errors import InvalidDataError
from tasks.evaluate.task import evaluate_candidate, make_parity_reference
from tasks.export.task import export_candidate, make_variants
from tasks.extract.task import extract_features, make_extractor
from tasks.finetune.task import finetune_head
from tasks.ingest.listing import hand_listing, remember_listing
from tasks.ingest.task import ingest_images
from tasks.publish.task import publish_model
from tasks.records import Catalogue, Run
from tasks.report.task import write_run_report
from tasks.resume import begin, end, unfinished_run
from tasks.runs import new_run, one_at_a_time
from tasks.split.task import split_images
from tasks.storage.repository import version_of
from tasks.validate.task import review_images, validate_images
from tasks.workspace import NAME_PATTERN


@flow(name="retrain", flow_run_name="{name}", validate_parameters=True)
def retrain(
    source: Annotated[str, Field(min_length=1)],
    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")] = "default",
    workspace: str = "./workspace",
    config: Config = Config(),  # frozen, so it may be shared
    force: bool = False,
) -> dict[str, Any]:
    """Turns labelled images into a promoted model.onnx, or says why not.

    Args:
        source: A folder with a subfolder a class, one with train/validation/test above those, a .csv, .jsonl or
            Parquet of path,label[,split], Label Studio's JSON export, `tfds:NAME`, or any of these behind an fsspec
            URL.
        name: The model's name, which is its folder in the model repository. Lower-case letters, digits, '-' and '_'.
        workspace: Where everything is kept. A folder, or an fsspec URL.
        config: Everything that shapes the result. Each key has the default that `headstart config` lists.
        force: Run although nothing is new.

    Returns:
        The summary, as `headstart retrain --json` prints it. The run's state has the verdict's name.
    """
    started()
    run = new_run(source, name, workspace, config)
    with one_at_a_time(run), one_slot(run):
        return ended(_retrain(run, force))  # type: ignore[return-value] - a state, whose data the caller is given


def _retrain(run: Run, force: bool) -> dict[str, Any]:
    preload_if_new(run, force)
    stage = Stopwatch()
    catalogue = stage(ingest_images, run)
    print_of_run = fingerprint(run, catalogue)
    if died := unfinished_run(run, catalogue, print_of_run, str(flow_run.id)):
        hand_listing(run, died)
        run.workspace.remove(run.path("")[:-1])
        run, catalogue = died, replace(catalogue, table_path=died.path("catalogue.parquet"))
    elif not force and (summary := settled(run, print_of_run)):
        remember_listing(run)
        return {**summary, "timings_s": stage.timings()}
    begin(run, catalogue, print_of_run, str(flow_run.id))
    preload(run)
    try:
        summary = _make_model(run, stage, catalogue, print_of_run)
    except InvalidDataError as exc:
        summary = invalid_data(run, catalogue, exc.reasons)
    return _finish(run, stage, summary)


def _make_model(run: Run, stage: Stopwatch, catalogue: Catalogue, print_of_run: str) -> dict[str, Any]:
    valid = stage(validate_images, run, catalogue)
    snapshot = stage(split_images, run, valid)
    run, tried = stage(auto, run, snapshot)  # with what validation decides, where that is asked for
    policy = stage(choose_policy, run)
    extractor = stage(make_extractor, run, snapshot, policy)
    # These two beside what the run waits for: the one fills the Keras process before it has to train, the other, which
    # may stop the run, changes no label.
    reference = make_parity_reference.submit(run, snapshot, extractor)
    features = stage(extract_features, run, snapshot, extractor, policy)
    features = replace(features, embedded=max(features.embedded, tried))
    review = review_images.submit(run, snapshot, features)
    head = stage(finetune_head, run, snapshot, extractor, features)
    # Exported before it is judged: the gates judge the very file that ships.
    version = version_of(run.workspace, run.name, run.run_id)
    candidate = stage(export_candidate, run, snapshot, extractor, head, version)
    for task in (reference, review):
        task.result()
    decision = stage(evaluate_candidate, run, snapshot, extractor, head, candidate)
    if decision.promote:
        variants = stage(make_variants, run, snapshot, extractor, candidate) if run.config.export.variants else ()
        stage(publish_model, run, snapshot, extractor, head, candidate, decision, variants)
    return summarise(run, catalogue, snapshot, extractor, features, head, candidate, decision, print_of_run)


def _finish(run: Run, stage: Stopwatch, summary: dict[str, Any]) -> dict[str, Any]:
    """Writes the summary for the report, then again with the report's own time."""
    run.workspace.write_json(run.path("summary.json"), {**summary, "timings_s": stage.timings()})
    stage(write_run_report, run)
    summary = {**summary, "timings_s": stage.timings()}
    run.workspace.write_json(run.path("summary.json"), summary)
    remember_listing(run)
    end(run)
    return summary
