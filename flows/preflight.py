"""What can be checked of a run before it costs anything: names, files and weights that its configuration asks for."""

from __future__ import annotations

import socket
from dataclasses import replace
from importlib.util import find_spec
from urllib.parse import urlsplit

from tasks.config import POOLED, Config, Scale, is_onnx_file
from tasks.errors import ConfigError
from tasks.evaluate.thresholds import load_gates
from tasks.extract.engine import check_engine
from tasks.ingest.entries import Listing
from tasks.ingest.sources import list_source
from tasks.modality.images.augmentation import policy_of
from tasks.networks.boundaries import check_boundary
from tasks.networks.extractor import build_outputs, extractor_of
from tasks.networks.onnx_backbone import extractor_graph
from tasks.publish.signing import check_key
from tasks.records import Run
from tasks.validate.suite import load_suite

SCHEDULER_TIMEOUT_S = 5

_passed: set[tuple[str, str, str]] = set()  # workspace, name and configuration


def check_run(run: Run) -> Listing | None:
    """Finds the run's source, and all that `check_setup` does.

    Returns:
        What a local source lists; of others it is not known yet.

    Raises:
        SourceError: the source is missing, empty or of no known form.
    """
    check_names(run.config)
    run.workspace.check_writable()
    local = "://" not in run.source and not run.source.startswith("tfds:")
    listing = list_source(run) if local else None  # quick for a folder; elsewhere it is left to the ingest stage
    check_setup(run)
    return listing


def check_names(config: Config) -> None:
    """Checks a configuration by itself: reads no file and builds nothing.

    So the sensor can do it, too, though what it announces is trained elsewhere.

    Raises:
        ConfigError: a backbone or boundary that is not known, or keys that exclude each other.
    """
    _check_precision(config)
    _check_choice(config)
    for backbone in config.backbones():
        if not is_onnx_file(backbone):  # of a file, the extractor knows
            # Where the choice is automatic, the boundary is one that is known to be good.
            check_boundary(backbone, POOLED if config.auto.enabled else config.backbone.boundary)


def check_setup(run: Run) -> None:
    """Finds the run's signing key, gates, suite, policy and weights (downloading those where it must).

    The command does this before Prefect is imported, and the flow again, since a worker runs it without the command;
    what passed once is not checked twice in a process.

    Raises:
        ConfigError: as `check_names`; a file that is not what it should be, a Dask scheduler that is not there.
        WeightsError: the weights can't be had.
        WorkspaceError: nothing can be written.
    """
    run.workspace.check_writable()
    setup = (run.workspace.url, run.name, run.config.digest())
    if setup in _passed:
        return
    check_names(run.config)
    check_key()
    load_gates(run.config.evaluate.gates, run.name)
    load_suite(run.config.suite)
    _check_scale(run.config.scale)
    for name in run.config.backbones():
        _check_extractor(replace(run, config=run.config.with_keys({"backbone.name": name})))
    _passed.add(setup)


def _check_extractor(run: Run) -> None:
    """Finds a backbone's weights, and layers or a file that can't be used: these would else show after validation."""
    check_engine(run.config.extract.engine, run.config.backbone.precision, run.config.backbone.name)
    extractor = extractor_of(run, policy_of(run.config))
    if run.workspace.exists(extractor.onnx_path):
        return
    if extractor.is_file:
        extractor_graph(extractor)
    elif isinstance(extractor.layers, tuple):
        build_outputs(extractor)  # seconds, for TensorFlow


def _check_choice(config: Config) -> None:
    named = config.auto.backbones
    if named and not config.auto.enabled:
        raise ConfigError(f"to choose among {', '.join(named)}, give --auto, or name one backbone")
    if len(named) > 1 and config.backbone.weights not in ("default", "imagenet"):
        raise ConfigError(
            f"{config.backbone.weights} can't be the weights of {', '.join(named)} alike: name one backbone, or leave "
            "--weights away"
        )


def _check_precision(config: Config) -> None:
    if config.backbone.precision == "int8" and config.export.variants:
        raise ConfigError(
            "export.variants are made of a float32 feature extractor: leave them or backbone.precision=int8 away"
        )


def _check_scale(scale: Scale) -> None:
    if scale.runner == "threads":
        return
    if find_spec("prefect_dask") is None:
        raise ConfigError("scale.runner = dask needs headstart's extra `dask`: uv sync --extra dask")
    if not scale.dask_address:
        return
    try:
        address = urlsplit(scale.dask_address)
        socket.create_connection((address.hostname or "", address.port or 0), SCHEDULER_TIMEOUT_S).close()
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"no Dask scheduler answers at scale.dask_address = {scale.dask_address!r} ({exc}); it is the address that "
            "`dask scheduler` prints, such as tcp://10.0.0.5:8786"
        ) from exc
