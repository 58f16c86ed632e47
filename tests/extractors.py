"""Exported feature extractors, each made once a session and copied to where a test needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.extract.export import ensure_exported
from tasks.modality.images.augmentation import Policy
from tasks.networks.extractor import extractor_of
from tasks.records import FeatureExtractor, Run
from tasks.workspace import Workspace
from tests import session


def exported(run: Run, policy: Policy) -> FeatureExtractor:
    """The run's feature extractor, whose file is in its workspace."""
    extractor = extractor_of(run, policy)
    shared = Workspace(str(session.folder() / "extractors"))
    extractor = ensure_exported(replace(run, workspace=shared), extractor)
    if run.workspace.exists(extractor.onnx_path):
        return extractor
    folder = extractor.onnx_path.rpartition("/")[0]
    for file in Path(shared.path(folder)).iterdir():
        run.workspace.write_bytes(f"{folder}/{file.name}", file.read_bytes())
    return extractor
