"""The ingest stage as Prefect tasks: one for the source, and one for each part that another process reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.display import Progress
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.entries import Entry
from tasks.ingest.reading import Read, read_files
from tasks.modality.kinds import kind_of
from tasks.orchestration import mapping, name_left_out, stage
from tasks.records import Catalogue, Run


@stage("ingest")
def ingest_images(run: Run) -> Catalogue:
    """Lists, reads, hashes and inspects the source; decodes only content that is new."""

    def elsewhere(parts: Sequence[Sequence[Entry]]) -> Iterator[list[Read]]:
        with mapping(run.config.scale, len(parts)) as mapper:
            yield from mapper(inspect_part, [(run, part) for part in parts])

    with Progress("ingest", None, kind_of(run.config).items) as progress:
        threads = run.config.scale.runner == "threads"
        catalogue = build_catalogue(run, progress.report, None if threads else elsewhere)
    name_left_out(run, catalogue.folder)
    return catalogue


@stage("ingest-part")
def inspect_part(run: Run, entries: Sequence[Entry]) -> list[Read]:
    """Reads one part of the source; retried separately."""
    return read_files(run, entries)
