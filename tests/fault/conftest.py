"""Clusters of the fault tests: each test has its own, since it breaks it."""

from __future__ import annotations

from integration.fixtures import book, cluster, ids, library, shop_redis, shop_server  # noqa: F401
