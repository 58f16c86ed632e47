"""Data Docs: Great Expectations' own pages on a run, built from the results that validation and review kept.

They are a supplement to the report, and take as long as validation itself; so they are built once everything that
decides is done.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.records import Catalogue, Run
from tasks.validate.suite import great_expectations, gx_suite, load_suite

RESULTS = "great_expectations.json"
# The pictures that tell Great Expectations of each page viewed.
_TRACKER = re.compile(r"<img[^>]*great-expectations-web-assets[^>]*>|url\('[^']*great-expectations-web-assets[^']*'\)")


def keep_results(run: Run, part: str, results: Sequence[dict[str, Any]]) -> None:
    """Keeps what Great Expectations said, for `build_docs`; of each `part` of validation the last results count."""
    kept = _kept(run, run.folder)
    run.workspace.write_json(run.path(RESULTS), {**kept, part: list(results)})


def build_docs(run: Run, validated: Catalogue) -> None:
    """Builds `data_docs/` in the folder that the run writes to, a page for each pass of each suite, those of validation
    among them; only pages and styles are kept."""
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    gx = great_expectations()
    context = gx.get_context(mode="ephemeral")
    for suite in (run.config.validation.suite, run.config.validation.changes_suite):
        context.suites.add_or_update(gx_suite(load_suite(suite)))
    for part, results in {**_kept(run, validated.folder), **_kept(run, run.folder)}.items():
        for number, result in enumerate(results, start=1):
            key = ValidationResultIdentifier(
                expectation_suite_identifier=ExpectationSuiteIdentifier(result["suite_name"]),
                run_id=gx.RunIdentifier(run_name=f"{run.run_id} {part} {number}", run_time=_time(result)),
                batch_identifier=part,
            )
            context.validation_results_store.set(key, _revived(result))
    with tempfile.TemporaryDirectory() as aside:
        for site in list(context.get_site_names()):
            context.delete_data_docs_site(site)
        context.add_data_docs_site(site_name="data_docs", site_config=_site(aside))
        context.build_data_docs()
        _keep_pages(run, Path(aside))


def _kept(run: Run, folder: str) -> dict[str, list[dict[str, Any]]]:
    path = f"{folder}/{RESULTS}"
    return run.workspace.read_json(path) if run.workspace.exists(path) else {}


def _revived(result: dict[str, Any]) -> Any:
    from great_expectations.core import expectation_validation_result as results

    loaded = results.ExpectationSuiteValidationResultSchema().load(result)
    return results.ExpectationSuiteValidationResult(**loaded) if isinstance(loaded, dict) else loaded


def _time(result: dict[str, Any]) -> str:
    return result["meta"]["run_id"]["run_time"]


def _site(folder: str) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": folder},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _keep_pages(run: Run, folder: Path) -> None:
    for page in sorted(folder.rglob("*")):
        if page.suffix == ".html":
            content = _TRACKER.sub("", page.read_text(encoding="utf-8")).encode()
        elif page.suffix == ".css":
            content = page.read_bytes()
        else:
            continue
        run.workspace.write_bytes(run.path(f"data_docs/{page.relative_to(folder).as_posix()}"), content)
