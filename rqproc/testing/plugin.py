"""The pytest plugin: the fixture ``rqproc_cluster``, and the option that runs it on real processes.

Knows pytest. Loads nothing else of rqproc until a test asks for a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rqproc.app import App
    from rqproc.testing.kit import Kit

MARKER = (
    "rqproc(app, nodes=3, **settings): what the fixture rqproc_cluster runs; settings as of "
    "rqproc.settings.NodeSettings, e.g. lease_s=1.0, heartbeat_s=0.2"
)

CLUSTER = pytest.StashKey["Kit"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("rqproc").addoption(
        "--rqproc-real",
        action="store_true",
        help="run rqproc_cluster on the embedded server, with nodes as processes and real time",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def rqproc_app() -> App:
    """The app whose cluster a test uses that has no marker: to be overridden."""
    raise pytest.UsageError(
        "rqproc_cluster does not know which app to run: mark the test or its module with "
        "@pytest.mark.rqproc(app), or write a fixture rqproc_app that returns it"
    )


@pytest.fixture
def rqproc_cluster(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """A cluster for one test, of the app that its marker names, else of ``rqproc_app``."""
    real = bool(request.config.getoption("--rqproc-real"))
    app, settings = _marked(request)
    if app is None:
        app = request.getfixturevalue("rqproc_app")
    with _kind(real=real)(app, **settings) as cluster:
        request.node.stash[CLUSTER] = cluster
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that fails says what has happened in its cluster."""
    report: pytest.TestReport = yield
    cluster = item.stash.get(CLUSTER, None)
    if cluster and report.failed:
        report.sections.append(("last events of the rqproc cluster", cluster.history.last()))
    return report


def _kind(*, real: bool) -> type[Kit]:
    from rqproc import testing

    return testing.RealCluster if real else testing.LocalCluster


def _marked(request: pytest.FixtureRequest) -> tuple[App | None, dict[str, Any]]:
    """Return the app and the rest of what the nearest marker says."""
    marker = request.node.get_closest_marker("rqproc")
    if marker is None:
        return None, {}
    rest = dict(marker.kwargs)
    app = rest.pop("app", None)
    if marker.args:
        app, *more = marker.args
        if len(more) > 1:
            raise pytest.UsageError(f"@pytest.mark.rqproc takes an app and a number: {MARKER}")
        rest |= {"nodes": more[0]} if more else {}
    return app, rest
