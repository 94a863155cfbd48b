"""Servers of one's own: what is left of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from rqproc.lab.servers import ServerProcess, private_server


def test_a_private_server_leaves_nothing_where_its_socket_had_to_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with private_server() as url:
        socket = Path(url.removeprefix("unix://"))
        assert socket.exists()
        assert not socket.is_relative_to(deep), "a path too long for a socket"
    assert not socket.parent.exists()
    assert list(deep.iterdir()) == []


def test_a_server_that_keeps_has_its_data_after_a_kill_until_that_is_taken_away() -> None:
    with ServerProcess(keeps=True) as server:
        folder = server.folder
        with server.client() as client:
            client.set("a", 1)
            client.set("b", 1, ex=60)
        server.kill()
        server.start()
        assert sorted(server.names()) == [("a", False), ("b", True)]
        server.kill()
        server.forget()
        server.start()
        assert server.names() == []
    assert not folder.exists()
