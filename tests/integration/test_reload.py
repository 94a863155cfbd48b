"""`rqproc node start --reload`: nodes that follow the files of their app."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration import kit
from integration.fixtures import Cluster
from integration.kit import Running

from rqproc.errors import RqprocError

pytest.importorskip("watchfiles")

APP = """
from rqproc import App

app = App()


@app.resource(ttl=600)
def answer(id):
    return {value}
"""


@contextmanager
def _reloading(cluster: Cluster, folder: Path, *options: str) -> Iterator[Running]:
    command = (sys.executable, "-P", "-m", "rqproc", "node", "start", "watched:app", "--reload")
    environ = kit.environ(cluster.url, cluster.namespace)
    with Running((*command, "--name", "w", *options), env=environ, cwd=folder) as running:
        yield running
        assert running.stop() == 0


def _write(folder: Path, value: object) -> None:
    (folder / "watched.py").write_text(APP.format(value=value))


def _has(cluster: Cluster, value: object) -> bool:
    try:
        return bool(cluster.client.request(1, "answer", timeout=10) == value)
    except RqprocError:  # between two lives there is nobody
        return False


@pytest.mark.parametrize("count", [1, 2])
def test_a_request_after_a_change_has_the_new_value(
    cluster: Cluster, tmp_path: Path, count: int
) -> None:
    _write(tmp_path, 1)
    names = ("w",) if count == 1 else ("w-1", "w-2")
    with _reloading(cluster, tmp_path, "--count", str(count)) as running:
        kit.eventually(lambda: cluster.client.members() == names)
        assert _has(cluster, 1)
        _write(tmp_path, 2)
        running.says("watched.py has changed: starting all nodes anew")
        kit.eventually(lambda: _has(cluster, 2), every_s=0.1)
        kit.eventually(lambda: cluster.client.members() == names)


def test_a_change_is_told_by_events_alone(cluster: Cluster, tmp_path: Path) -> None:
    _write(tmp_path, 1)
    with _reloading(cluster, tmp_path, "--json-logs") as running:
        kit.eventually(lambda: _has(cluster, 1), every_s=0.1)
        _write(tmp_path, 2)
        running.says("app_changed")
        kit.eventually(lambda: _has(cluster, 2), every_s=0.1)
        assert not running.said('"event": ""', within_s=0.1)


def test_an_app_that_breaks_is_told_and_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    _write(tmp_path, 1)
    with _reloading(cluster, tmp_path) as running:
        kit.eventually(lambda: _has(cluster, 1), every_s=0.1)
        _write(tmp_path, "=")
        running.says("SyntaxError")
        running.says("w waits for a change")
        _write(tmp_path, 3)
        kit.eventually(lambda: _has(cluster, 3), every_s=0.1)


def test_a_supervisor_that_waits_for_a_change_can_be_stopped(
    cluster: Cluster, tmp_path: Path
) -> None:
    _write(tmp_path, 1)
    with _reloading(cluster, tmp_path) as running:
        kit.eventually(lambda: _has(cluster, 1), every_s=0.1)
        _write(tmp_path, "=")
        running.says("w waits for a change")


def test_an_app_that_is_broken_at_first_is_waited_for_too(cluster: Cluster, tmp_path: Path) -> None:
    _write(tmp_path, "=")
    with _reloading(cluster, tmp_path) as running:
        running.says("SyntaxError")
        running.says("waiting for a change in")
        _write(tmp_path, 4)
        kit.eventually(lambda: _has(cluster, 4), every_s=0.1)


def test_a_handler_that_runs_on_does_not_keep_the_old_code(
    cluster: Cluster, book: kit.Book, tmp_path: Path
) -> None:
    text = APP.format(value=1).replace(
        "    return", "    import shop; shop._begin(0); shop._wait()\n    return"
    )
    (tmp_path / "watched.py").write_text(text)
    with _reloading(cluster, tmp_path) as running:
        running.ready()
        cluster.client.enqueue(1, "answer")
        kit.eventually(lambda: cluster.client.membership().nodes[0].held == 1)
        _write(tmp_path, 5)
        kit.eventually(lambda: _has(cluster, 5), every_s=0.1)


def test_a_module_that_is_not_there_is_not_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    command = (*kit.RQPROC, "node", "start", "nothing_here:app", "--reload")
    with Running(command, env=kit.environ(cluster.url, cluster.namespace), cwd=tmp_path) as running:
        assert running.wait() == 2
    assert "cannot import 'nothing_here'" in running.stderr


def test_without_its_package_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, line: kit.Line
) -> None:
    monkeypatch.setattr("rqproc.cli.reload.find_spec", lambda name: None)
    code, _, err = line("node", "start", "shop:app", "--reload")
    assert (code, err) == (2, "error: --reload needs `pip install 'rqproc[reload]'`\n")


def test_without_an_app_there_is_nothing_to_reload(line: kit.Line) -> None:
    code, _, err = line("node", "start", "--reload")
    assert code == 2
    assert "--reload is for an app of your own" in err
