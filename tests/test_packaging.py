"""What a program that imports headstart as a library relies on."""

from __future__ import annotations

from importlib.resources import files

import pytest


@pytest.mark.parametrize("package", ["flows", "tasks", "expectations", "deploy"])
def test_type_checkers_read_the_types_of_every_package(package: str):
    assert files(package).joinpath("py.typed").is_file()  # PEP 561
