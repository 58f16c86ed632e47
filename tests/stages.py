"""The stages up to the exported candidate as the flow runs them, without Prefect."""

from __future__ import annotations

from tasks.evaluate.parity import make_reference
from tasks.export.familiar import fit_familiarity_basis
from tasks.export.model import export_model
from tasks.extract.engine import choose_engine
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.finetune.stage import finetune
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images.augmentation import policy_of
from tasks.networks import keras_process
from tasks.records import Candidate, FeatureExtractor, Features, Run
from tasks.split.assign import make_snapshot


def candidate_of(run: Run, extractor: FeatureExtractor) -> Candidate:
    """A candidate for version 1, made with an extractor that the workspace has; Keras stays in its own process."""
    policy = policy_of(run.config)
    snapshot = make_snapshot(run, build_catalogue(run))
    todo = missing_tasks(run, snapshot, extractor, policy)
    engine = choose_engine(run, extractor)
    for shard in cut(todo, 64):
        embed_shard(run, extractor, policy, engine, shard)
    keras_process.call(make_reference, run, snapshot, extractor, 128)
    features = Features(snapshot=snapshot, extractor=extractor, views=policy.views, embedded=len(todo))
    head = keras_process.call(finetune, run, features)
    return keras_process.call(export_model, run, head, fit_familiarity_basis(run, features), 1)
