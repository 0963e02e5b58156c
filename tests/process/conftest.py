from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import free_port, redis_running


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """A new Redis."""
    with redis_running(tmp_path, free_port()) as url:
        yield url
