"""The DAG: validation, augmentation, a feature extractor's features, a fine-tuned head, gates and ONNX export, as
tasks."""

# No `from __future__ import annotations` here: a worker loads this file by its path, where Prefect finds the schema of
# the parameters in annotations that are types, and not in those that are text.

import os
from typing import Annotated, Any

from prefect import flow, get_run_logger
from pydantic import Field

from flows.evidence import ask_all_images
from flows.preflight import check_setup
from flows.run_state import check_restarts, ended
from flows.search import choose_settings
from flows.slot import one_run_at_a_time
from flows.summary import finish, invalid_data, run_key, summarise, unchanged
from flows.warmup import preload, preload_if_new
from tasks.augment.task import choose_policy
from tasks.config import Config, with_environment
from tasks.errors import InvalidDataError, SourceChangedError, WorkspaceError
from tasks.evaluate.task import evaluate_candidate, make_parity_reference
from tasks.export.task import export_candidate, fit_familiarity_basis, make_variants
from tasks.extract.task import extract_features, make_extractor
from tasks.finetune.cross_fit import calibrates
from tasks.finetune.task import cross_fit_heads, finetune_head
from tasks.ingest.sources import with_task
from tasks.ingest.task import ingest_images
from tasks.orchestration import accounting
from tasks.publish.task import publish_model
from tasks.records import Catalogue, Run
from tasks.report.task import write_run_report
from tasks.runs import Account, new_run
from tasks.split.task import split_images
from tasks.storage.repository import version_for
from tasks.validate.task import review_images, validate_images
from tasks.workspace import NAME_PATTERN


@flow(name="retrain", flow_run_name="{name}", validate_parameters=True)
def retrain(
    source: Annotated[str, Field(min_length=1)],
    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")] = "default",
    workspace: str = "./workspace",
    force: bool = False,
    # Frozen, so it may be shared. Last, since its form is the longest, which begins with its sections folded.
    config: Annotated[Config, Field(json_schema_extra={"default": {}})] = Config(),
) -> dict[str, Any]:
    """Turns labelled images or texts into a promoted model.onnx, or says why not.

    Args:
        source: A folder with a subfolder a class, one with train/validation/test above those, a .csv, .jsonl or
            Parquet of path,label[,split] or, for texts, of text,label[,split], Label Studio's JSON export,
            `tfds:NAME`, or any of these behind an fsspec URL.
        name: The model's name, which is its folder in the model repository. Lower-case letters, digits, '-' and '_'.
        workspace: Where everything is kept. A folder, or an fsspec URL.
        force: Run although nothing is new.
        config: Everything that shapes the result. Each key has the default that `headstart config` lists.

    Returns:
        The summary, as `headstart retrain --json` prints it. The run's state has the verdict's name.
    """
    check_restarts()
    run = with_task(new_run(source, name, workspace, with_environment(config, os.environ)))
    check_setup(run)
    with one_run_at_a_time(run), accounting() as account:
        return ended(_retrain_what_is_there(run, force, account))  # type: ignore[return-value] - a state, whose data the caller is given


def _retrain_what_is_there(run: Run, force: bool, account: Account) -> dict[str, Any]:
    """Starts over, once, where an image or the snapshot was changed or deleted after it was read."""
    try:
        return _retrain(run, force, account)
    except (SourceChangedError, WorkspaceError) as exc:
        if isinstance(exc, WorkspaceError) and not isinstance(exc.__cause__, FileNotFoundError):
            raise
        get_run_logger().warning("%s: the run starts over, with what is there now", exc)
    if folder := account.artifacts.get("split"):  # its snapshot may be what is gone
        run.workspace.remove(folder)
    return _retrain(run, force, account)


def _retrain(run: Run, force: bool, account: Account) -> dict[str, Any]:
    preload_if_new(run, force)
    catalogue = ingest_images(run)
    # Taken before the work: what a person decides while the run is under way is new to the next one.
    key = run_key(run, catalogue)
    if not force and (summary := unchanged(run, key, account)):
        return summary
    preload(run)
    try:
        summary = _make_model(run, catalogue, account)
    except InvalidDataError as exc:
        summary, key = invalid_data(run, catalogue, exc.reasons, account), None
    finish(run, summary, account)
    write_run_report(run)
    # With the report's own seconds, and the key: a run that dies before it has its report is made again.
    return finish(run, {**summary, "fingerprint": key}, account)


def _make_model(run: Run, catalogue: Catalogue, account: Account) -> dict[str, Any]:
    validated = validate_images(run, catalogue)
    snapshot = split_images(run, validated)
    run = choose_settings(run, snapshot)
    policy = choose_policy(run)
    extractor = make_extractor(run, snapshot, policy)
    # These three run beside the stages that the run waits for: the first fills the Keras process before it has to
    # train, the second, which may stop the run, changes no label, and the third needs no head.
    reference = make_parity_reference.submit(run, snapshot, extractor)
    features = extract_features(run, snapshot, extractor, policy)
    review = review_images.submit(run, features)
    basis = fit_familiarity_basis.submit(run, features)
    head = finetune_head(run, features, cross_fit_heads(run, features) if calibrates(run, features) else None)
    # Exported before it is judged: the gates judge the very file that ships.
    candidate = export_candidate(run, head, basis.result(), version_for(run.workspace, run.name, head))
    reference.result()
    reviewed = review.result()
    decision = evaluate_candidate(run, candidate)
    if decision.undecided:
        decision = ask_all_images(run, decision)
    if decision.promote:
        publish_model(run, decision, make_variants(run, decision))
    return summarise(run, catalogue, reviewed, decision, account)
