"""Data Docs: Great Expectations' pages on a run, built from the stored results of validation and review.

They take as long as validation itself, so they are built last, when nothing waits for them.
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
# Images on the pages that report each view to Great Expectations.
_TRACKER = re.compile(r"<img[^>]*great-expectations-web-assets[^>]*>|url\('[^']*great-expectations-web-assets[^']*'\)")


def keep_results(run: Run, part: str, results: Sequence[dict[str, Any]]) -> None:
    """Stores the results of Great Expectations for `build_docs`; new results replace those of the same `part`."""
    kept = _kept(run, run.folder)
    run.workspace.write_json(run.path(RESULTS), {**kept, part: list(results)})


def build_docs(run: Run, validated: Catalogue) -> None:
    """Builds `data_docs/` in the run's folder: HTML pages and styles, a page for each pass of each suite.

    Args:
        validated: the catalogue whose validation results are included.
    """
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    gx = great_expectations()
    context = gx.get_context(mode="ephemeral")
    for suite in (run.config.suite, run.config.validation.changes_suite):
        context.suites.add_or_update(gx_suite(load_suite(suite)))
    for part, results in {**_kept(run, validated.folder), **_kept(run, run.folder)}.items():
        for number, result in enumerate(results, start=1):
            key = ValidationResultIdentifier(
                expectation_suite_identifier=ExpectationSuiteIdentifier(result["suite_name"]),
                run_id=gx.RunIdentifier(
                    run_name=f"{run.run_id} {part} {number}", run_time=result["meta"]["run_id"]["run_time"]
                ),
                batch_identifier=part,
            )
            context.validation_results_store.set(key, _loaded(result))
    with tempfile.TemporaryDirectory() as aside:
        for name in list(context.get_site_names()):
            context.delete_data_docs_site(name)
        site = {
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": aside},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
        context.add_data_docs_site(site_name="data_docs", site_config=site)
        context.build_data_docs()
        _keep_pages(run, Path(aside))


def _kept(run: Run, folder: str) -> dict[str, list[dict[str, Any]]]:
    path = f"{folder}/{RESULTS}"
    return run.workspace.read_json(path) if run.workspace.exists(path) else {}


def _loaded(result: dict[str, Any]) -> Any:
    from great_expectations.core import expectation_validation_result as results

    loaded = results.ExpectationSuiteValidationResultSchema().load(result)
    return results.ExpectationSuiteValidationResult(**loaded) if isinstance(loaded, dict) else loaded


def _keep_pages(run: Run, folder: Path) -> None:
    for page in sorted(folder.rglob("*")):
        if page.suffix == ".html":
            content = _TRACKER.sub("", page.read_text(encoding="utf-8")).encode()
        elif page.suffix == ".css":
            content = page.read_bytes()
        else:
            continue
        run.workspace.write_bytes(run.path(f"data_docs/{page.relative_to(folder).as_posix()}"), content)
