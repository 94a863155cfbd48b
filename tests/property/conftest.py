"""What the facts of the protocol begin with: a stage on a server of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from callers import Callers


@pytest.fixture
def stage(url: str) -> Iterator[Callers]:
    stage = Callers(url)
    yield stage
    stage.world.close()
