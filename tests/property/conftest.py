"""What the facts of the protocol begin with: a stage on a server of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stage import Stage


@pytest.fixture
def stage(url: str) -> Iterator[Stage]:
    stage = Stage(url)
    yield stage
    stage.world.close()
