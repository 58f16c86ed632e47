"""What a request may cost, so that no client can take the server from the others."""

from __future__ import annotations

from dataclasses import dataclass

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
