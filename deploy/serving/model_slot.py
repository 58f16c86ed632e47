"""The newest version that verifies, found by looking: no restart, and never a moment without a model."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from deploy.serving.model import Answer, ServedModel
from tasks.errors import DamagedFileError, RequestError, WorkspaceError
from tasks.publish.verify import verify_version
from tasks.storage.repository import MANIFEST, MODEL, TOKENIZER, newest_first, version_path
from tasks.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A published version that is not served, and why."""

    version: int
    manifest_sha256: str
    reasons: tuple[str, ...] = field(default_factory=tuple)


class ModelSlot:
    """Holds the model in service. `refresh` may replace it during `infer`: each batch keeps the model it began with."""

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        *,
        public_key: str | None = None,
        observe_reload: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        """
        Args:
            public_key: a PEM file; versions not signed with it are refused.
            observe_reload: told `loaded`, `refused` or `unreadable`.
        """
        self.workspace = workspace
        self.name = name
        self.refusals: dict[int, Refusal] = {}
        self._public_key = public_key
        self._observe_reload = observe_reload
        self._model: ServedModel | None = None
        self._refreshing = threading.Lock()

    @property
    def model(self) -> ServedModel:
        """The model in service. Raises RequestError (503) while there is none."""
        if self._model is None:
            raise RequestError(503, f"no version of {self.name!r} can be served yet; see GET /v2/health/ready")
        return self._model

    @property
    def ready(self) -> bool:
        return self._model is not None

    def infer(self, images: np.ndarray) -> list[Answer]:
        """Answers uint8 [N, H, W, 3] with the model of this moment."""
        return self.model.infer(images)

    def files_of(self, model: ServedModel) -> dict[str, bytes]:
        """The graph of a model that is in service and, of texts, its tokenizer, read once more: nothing keeps them.

        Raises:
            DamagedFileError: one of them is not the file that was verified.
            WorkspaceError: one of them can't be read.
        """
        wanted = (MODEL, TOKENIZER) if model.task == "text" else (MODEL,)
        found = {name: self.workspace.read_bytes(version_path(self.name, model.version, name)) for name in wanted}
        for name, content in found.items():
            if hashlib.sha256(content).hexdigest() != model.manifest["files"].get(name):
                raise DamagedFileError(f"{name} of version {model.version} has changed since it was verified")
        return found

    def refresh(self) -> bool:
        """Looks for a newer version, and serves the newest that verifies. Returns whether it changed.

        A version that fails is refused, with its reasons, and the last good one stays. What can't be read now
        is looked at again next time.
        """
        with self._refreshing:
            try:
                return any(self._consider(version) for version in self._newer())
            except (OSError, WorkspaceError) as exc:
                log.warning("can't look for new versions of %s: %s; will look again", self.name, exc)
                self._observe_reload("unreadable")
                return False

    def _newer(self) -> Iterator[int]:
        serving = self._model.version if self._model else 0
        return takewhile(lambda version: version > serving, newest_first(self.workspace, self.name))

    def _consider(self, version: int) -> bool:
        """Serves this version if it verifies. Returns whether it is served."""
        manifest_sha256 = self._manifest_sha256(version)
        known = self.refusals.get(version)
        if known and known.manifest_sha256 == manifest_sha256:
            return False
        reasons = self._load(version)
        if reasons:
            self.refusals[version] = Refusal(version=version, manifest_sha256=manifest_sha256, reasons=tuple(reasons))
            staying = f"version {self._model.version} stays" if self._model else "nothing is served"
            log.error("refused %s version %d (%s); %s", self.name, version, "; ".join(reasons), staying)
            self._observe_reload("refused")
            return False
        log.info("serving %s version %d", self.name, version)
        self._observe_reload("loaded")
        return True

    def _manifest_sha256(self, version: int) -> str:
        path = version_path(self.name, version, MANIFEST)
        return hashlib.sha256(self.workspace.read_bytes(path)).hexdigest() if self.workspace.exists(path) else ""

    def _load(self, version: int) -> list[str]:
        """Puts a version into service, or enters why it was refused."""
        found = verify_version(self.workspace, self.name, version, public_key=self._public_key)
        if not found.ok:
            return found.problems
        try:
            files = found.files
            self._model = ServedModel(
                files[MODEL], files.get(TOKENIZER), name=self.name, version=version, manifest=found.manifest
            )
        except DamagedFileError as exc:
            return [str(exc)]
        return []
