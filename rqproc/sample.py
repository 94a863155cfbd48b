"""The default resource: what a cluster serves before anyone has written a handler."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from rqproc.context import current
from rqproc.ids import Id
from rqproc.model import DEFAULT_RESOURCE
from rqproc.resource import Declaring, ResourceSpec

TTL_S = 5.0


def with_demo(app: Declaring | None) -> Mapping[str, ResourceSpec]:
    """Return what a node of this app serves: its resources, and the default one."""
    resources = dict(app.resources) if app else {}
    resources.setdefault(DEFAULT_RESOURCE, SAMPLE)
    return resources


def _sample(id: Id) -> dict[str, Any]:
    return {"value": random.randint(1, 1000), "node": current().node}  # noqa: S311


SAMPLE = ResourceSpec(_sample, name=DEFAULT_RESOURCE, ttl_s=TTL_S)
