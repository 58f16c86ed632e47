"""What a request may cost, so that no client can take the server from the others."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.errors import UsageError

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one request, and of all that are under way together."""

    max_body_bytes: int = 32 * MIB
    """Of one request, as sent and, where it is compressed, as unpacked. More is answered with 413."""
    max_pixels: int = 25_000_000
    """Of one image, decoded (a 24-megapixel photograph passes). More is answered with 413."""
    max_pixels_at_once: int = 30_000_000
    """Of all images that are decoded or predicted together, about 25 bytes each; the others wait."""
    timeout_s: float = 15.0
    """To read a request's body (408), and again to answer it (503)."""
    max_waiting: int = 256
    """Images that wait for the model. One more is answered with 503."""
    max_pending_bytes: int = 1024 * MIB
    """Of all bodies and decoded images under way together. One more is answered with 503."""
    max_batch: int = 16
    """Images of one size that the model answers together, where it is faster so."""


@dataclass(frozen=True, kw_only=True)
class CollectLimits:
    """What the collected images of one model may take, and what may wait to be kept."""

    max_images: int = 10_000
    max_mb: float = 1000
    """Of 10^6 bytes."""
    days: float = 30.0
    """An older image is removed."""
    max_waiting: int = 64
    """Requests."""
    max_waiting_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        """Raises UsageError for a bound that leaves nothing."""
        for option, bound in (("images", self.max_images), ("mb", self.max_mb), ("days", self.days)):
            if not bound > 0:
                raise UsageError(f"--collect-{option} takes a number above 0; found {bound}")
