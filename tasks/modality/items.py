"""Items by their address: the bytes of an image or a text, and whether they are still those that were inspected."""

from __future__ import annotations

import hashlib
import os
import stat
from urllib.parse import quote, unquote_to_bytes

from tasks.errors import SourceChangedError, SourceError

# What the operating system says of a file that is not there, or is something else by now.
GONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


# Before a text that is its own address: a line of a table has no file, and its text is short.
TEXT = "data:text/plain;charset=utf-8,"


def uri_of_text(text: str) -> str:
    """The address of a text that lies in no file: a `data:` URI (RFC 2397), which holds the text itself."""
    return TEXT + quote(text)


def shown(uri: str) -> str:
    """An address as a person is shown it: of a text that is its own address the text."""
    return unquote_to_bytes(uri.removeprefix(TEXT)).decode() if is_inline(uri) else uri


def is_text_uri(uri: str) -> bool:
    """Whether an address is that of a text: in a line of a table, or in a .txt file."""
    return is_inline(uri) or uri.lower().endswith(".txt")


def is_inline(uri: str) -> bool:
    """Whether an address holds the item itself: nothing behind it can change or be lost."""
    return uri.startswith(TEXT)


def read_bytes(uri: str, max_bytes: int | None = None) -> bytes:
    """The encoded bytes behind a local path, an fsspec URL, or in an address of `uri_of_text`.

    Only regular files are read, and no more of them than they are long: devices, pipes and the files of /proc may have
    no end, or wait for ever.

    Raises:
        SourceError: it can't be read, is no regular file, or has more than `max_bytes`.
    """
    if is_inline(uri):
        return unquote_to_bytes(uri.removeprefix(TEXT))
    try:
        if "://" not in uri:
            return _read_local(uri, max_bytes)
        import fsspec  # here, as who only decodes needs Pillow and NumPy alone

        with fsspec.open(uri, "rb") as file:
            content: bytes = file.read(-1 if max_bytes is None else max_bytes + 1)  # type: ignore[union-attr]
    except OSError as exc:
        raise SourceError(f"can't read {uri}: {exc.strerror or exc}") from exc
    except (ValueError, ImportError) as exc:  # a NUL in a name, a scheme that is unknown or lacks its package
        raise SourceError(f"can't read {uri}: {exc}") from exc
    if max_bytes is not None and len(content) > max_bytes:
        raise SourceError(f"can't read {uri}: it has more than {max_bytes} bytes")
    return content


def _read_local(path: str, max_bytes: int | None) -> bytes:
    """A third of the time of fsspec's local file system."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would block
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"can't read {path}: it is {file_kind(status.st_mode)}, not a file")
        if max_bytes is not None and status.st_size > max_bytes:
            raise SourceError(f"can't read {path}: it has {status.st_size} bytes, more than {max_bytes}")
        # Files of /proc say that they are empty, and some of them have no end.
        return file.read(status.st_size) if status.st_size else b""


def file_kind(mode: int) -> str:
    """What a path is that is no regular file."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_checked(uri: str, sha256: str) -> bytes:
    """An image's bytes, checked against its digest.

    Raises:
        SourceChangedError: the file is gone, or has other bytes.
        SourceError: the storage does not answer.
    """
    try:
        content = read_bytes(uri)
    except SourceError as exc:
        if exc.__cause__ is None or isinstance(exc.__cause__, GONE):
            raise SourceChangedError(f"{uri} can't be read any more: {exc}") from None
        raise
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SourceChangedError(f"{uri} changed while the run was reading it; run again when the copy is complete")
    return content
