"""The exceptions of headstart, one tree.

A refusal by the gates is not here: it is a value (`artifacts.Decision`), not a fault. Every message says what
is wrong, where, what was found, what is allowed and how to mend it; the command line prints it as it is, without a
traceback, and exits with `exit_status`.

    HeadstartError                1  a fault
    ├── UsageError                2  bad usage
    │   ├── ConfigError           2  a key, value or file of the configuration
    │   ├── SourceError           2  the images' source is missing, empty or not of a known form
    │   └── WeightsError          2  the backbone's weights can't be had or don't fit
    ├── RefusedError              3  the gates refused, and can't be overridden
    ├── InvalidDataError          4  the data failed validation
    ├── WorkspaceError            1  the workspace can't be read or written
    │   └── DamagedFileError      1  a file's content does not match its digest
    ├── SourceChangedError        1  an image changed while it was being read
    ├── DecodeError               1  bytes that are not an image that can be used
    ├── RequestError              1  a request that the server can't answer, with its HTTP status
    └── ExportError               1  a graph that could not be made or does not agree with its source
"""

from __future__ import annotations


class HeadstartError(Exception):
    """The base of all errors that headstart raises on purpose."""

    exit_status = 1


class UsageError(HeadstartError):
    """Bad usage: an argument, option or file that the command can't use."""

    exit_status = 2


class ConfigError(UsageError):
    """An unknown key, a value out of range, or a configuration file that can't be read."""


class SourceError(UsageError):
    """The source of images is missing, empty, or not of a known form."""


class WeightsError(UsageError):
    """The weights of a backbone can't be had, or don't fit its layers."""


class RefusedError(HeadstartError):
    """A candidate can't be published: a gate that can't be overridden refused it."""

    exit_status = 3


class InvalidDataError(HeadstartError):
    """The data failed an expectation whose severity is `stop`.

    `reasons` holds one sentence for each failed expectation.
    """

    exit_status = 4

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("the data failed validation:\n" + "\n".join(f"  - {reason}" for reason in reasons))
        self.reasons = reasons

    def __reduce__(self):
        return type(self), (self.reasons,)


class WorkspaceError(HeadstartError):
    """The workspace can't be read or written."""


class DamagedFileError(WorkspaceError):
    """A file of the workspace does not have the content that its digest promises."""


class SourceChangedError(HeadstartError):
    """An image's bytes are no longer those that the snapshot names."""


class DecodeError(HeadstartError):
    """Bytes that are not an image, or one that is truncated, too large or of an unsupported kind."""


class RequestError(HeadstartError):
    """A request that the server refuses: `http_status` 4xx where the client can mend it, 503 where waiting does."""

    def __init__(self, http_status: int, reason: str) -> None:
        super().__init__(reason)
        self.http_status = http_status

    def __reduce__(self):
        return type(self), (self.http_status, str(self))


class ExportError(HeadstartError):
    """A graph could not be exported, composed or checked."""
