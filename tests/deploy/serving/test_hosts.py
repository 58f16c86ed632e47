"""Which hosts and origins are answered, as a browser and a probe would ask."""

from __future__ import annotations

import httpx
import pytest

from deploy.serving.app import create_app
from deploy.serving.hosts import AllowedHosts
from deploy.serving.model_slot import ModelSlot
from tasks.workspace import Workspace
from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import encoded


def client(workspace: str, hosts: AllowedHosts | None = None) -> httpx.AsyncClient:
    slot = ModelSlot(Workspace(workspace), "colours")
    slot.refresh()
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(slot, hosts=hosts)), base_url="http://localhost")


async def status(asked: httpx.AsyncClient, **headers: str) -> int:
    answer = await asked.post("/classify", content=encoded(), headers=headers)
    if answer.status_code != 200:
        assert "--allowed-hosts" in answer.json()["error"]
    return answer.status_code


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("served")
    publish(folder, 1)
    return str(folder)


def answers(workspace: str, hosts: AllowedHosts | None, **headers: str) -> int:
    import asyncio

    async def ask() -> int:
        async with client(workspace, hosts) as asked:
            return await status(asked, **headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("localhost.", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("192.0.2.7", 403),
        ("[::1", 403),
        ("", 403),
        ("x" * 5000, 403),
    ],
)
def test_by_default_only_loopback_names_are_answered(workspace: str, host: str, expected: int):
    assert answers(workspace, None, Host=host) == expected


@pytest.mark.parametrize(
    ("listens_on", "names", "host", "expected"),
    [
        ("192.0.2.7", (), "192.0.2.7:8000", 200),
        ("192.0.2.7", (), "192.0.2.8", 403),
        ("models.example", (), "models.example", 200),
        ("0.0.0.0", (), "10.1.2.3:8000", 200),
        ("::", (), "[2001:db8::7]:8000", 200),
        ("0.0.0.0", (), "evil.example", 403),
        ("0.0.0.0", ("models.example",), "Models.Example:443", 200),
        ("127.0.0.1", ("*.svc",), "serving.headstart.svc", 200),
        ("127.0.0.1", ("*.svc",), "svc", 403),
        ("127.0.0.1", ("*",), "whatever.example", 200),
    ],
)
def test_what_the_server_was_told_of_is_answered_too(workspace, listens_on, names, host, expected):
    assert answers(workspace, AllowedHosts(listens_on, names), Host=host) == expected


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("localhost:8000", "http://localhost:8000", 200),
        ("models.example", "https://models.example", 200),
        ("localhost:8000", "https://models.example", 200),
        ("localhost:8000", "http://localhost:3000", 403),
        ("localhost:8000", "http://evil.example", 403),
        ("localhost:8000", "null", 403),
        ("localhost:8000", "http://[", 403),
    ],
)
def test_a_page_may_ask_its_own_server_and_one_that_was_told_of_it(workspace, host, origin, expected):
    hosts = AllowedHosts("127.0.0.1", ["models.example"])
    assert answers(workspace, hosts, Host=host, Origin=origin) == expected


def test_every_route_is_guarded_and_control_characters_are_shown(workspace: str):
    import asyncio

    async def ask() -> list[httpx.Response]:
        async with client(workspace) as asked:
            paths = ("/", "/about", "/metrics", "/openapi.json", "/v2/health/live", "/nowhere")
            return [await asked.get(path, headers={"Host": "evil.example"}) for path in paths]

    for answer in asyncio.run(ask()):
        assert answer.status_code == 403
        assert "'evil.example'" in answer.json()["error"]
