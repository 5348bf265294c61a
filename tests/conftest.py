"""Lies here so that tests of every folder can import `families` and `run_folders`."""

import pytest

_LONG_S = 1800
"""Seconds after which a test marked `long` is stopped; others have the shorter `timeout` of pyproject.toml."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests marked `long` the time they need beside other work."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_LONG_S))
