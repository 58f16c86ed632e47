"""Which requests a browser may make: by the host that they ask for, and by the page that they come from.

A page of anybody's can have its own name lead to this machine (DNS rebinding) and then read what is served here. Its
requests still carry that name in `Host`, so only the configured names are answered. A page can also post to the right
name without reading the answer; such a request carries the page's `Origin`.

Starlette's TrustedHostMiddleware compares names too, but knows neither `Origin` nor that a server which listens on all
addresses is asked by any of them, as the probes of Kubernetes do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.serving.measured import problem
from tasks.display import visible

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::", "")
MAX_SHOWN = 100  # characters of a header


class AllowedHosts:
    """The names by which a server may be asked."""

    def __init__(self, host: str = "127.0.0.1", names: Sequence[str] = ()) -> None:
        """
        Args:
            host: the address that the server listens on. If that is every address, any address may be asked for.
            names: further names; '*.example.org' stands for every name below it, '*' for all.
        """
        self._told = [name.strip().strip("[]").lower() for name in names if name.strip()]
        self._own = {*LOOPBACK, host.strip("[]").lower()} - set(EVERY_ADDRESS)
        self._any_address = host in EVERY_ADDRESS

    @property
    def are_loopback(self) -> bool:
        """Whether it can only be asked from the machine that it runs on."""
        return not self._told and not self._any_address and self._own <= set(LOOPBACK)

    def has(self, name: str | None) -> bool:
        return name is not None and (
            name in self._own or self.was_told(name) or (self._any_address and _is_address(name))
        )

    def was_told(self, name: str | None) -> bool:
        """Whether the name is one of those that were given, and not only one that the server has by itself."""
        return name is not None and any(
            name == told or told == "*" or (told.startswith("*.") and name.endswith(told[1:])) for told in self._told
        )


class HostCheck:
    """Answers 403 where `Host` is not one of the allowed hosts, or `Origin` is another site."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem(403, refusal, {"Connection": "close"})(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        given = headers.get("host", "")
        host, origin = _name(f"//{given}"), headers.get("origin")
        if not self._hosts.has(host):
            found = _shown(given)
            return (
                f"this server was asked as {found}, which is none of its names; if it is, start it with --allowed-hosts"
            )
        if origin is None or _site(origin) == given.lower() or self._hosts.was_told(_name(origin)):
            return None
        return f"a page of {_shown(origin)} may not ask this server; if it may, start the server with --allowed-hosts"


def _name(url: str) -> str | None:
    """The host in a URL, without its port; None where there is none, or it can't be read."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.rstrip(".").lower() if name else None


def _site(origin: str) -> str:
    """Host and port of an origin, as `Host` has them: a default port is left out in both."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _shown(header: str) -> str:
    return repr(visible(header[:MAX_SHOWN]))
