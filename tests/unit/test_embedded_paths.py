"""Where the embedded server's files go, and which directories are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rqproc.errors import EmbeddedUnavailable
from rqproc.server.places import MAX_SOCKET_BYTES, Places, claim

UID = os.getuid()


def test_the_xdg_directories_are_used_where_they_are_set() -> None:
    places = Places.of_user({"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/home/a/state"})
    assert places.socket == Path("/run/user/7/rqproc/server.sock")
    assert places.data == Path("/home/a/state/rqproc/data")
    assert places.url == "unix:///run/user/7/rqproc/server.sock"


def test_without_them_it_is_the_temporary_directory_and_the_home() -> None:
    places = Places.of_user({"TMPDIR": "/var/tmp", "HOME": "/home/a"})
    assert places.runtime == Path(f"/var/tmp/rqproc-{UID}")
    assert places.state == Path("/home/a/.local/state/rqproc")


def test_relative_xdg_directories_are_ignored() -> None:
    environ = {"XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "HOME": "/home/a"}
    assert Places.of_user(environ) == Places.of_user({"HOME": "/home/a"})


@pytest.mark.parametrize("length", range(60, 130, 7))
def test_a_sockets_path_is_never_too_long(length: int) -> None:
    long = "/" + "x" * length
    for environ in ({"XDG_RUNTIME_DIR": long}, {"TMPDIR": long}):
        places = Places.of_user({"HOME": "/home/a"} | environ)
        assert len(os.fsencode(places.socket)) <= MAX_SOCKET_BYTES


def test_bytes_count_not_letters() -> None:
    places = Places.of_user({"XDG_RUNTIME_DIR": "/" + "ü" * 60, "HOME": "/home/a"})
    assert places.runtime.parent == Path("/tmp")


def test_two_long_directories_get_two_short_ones(tmp_path: Path) -> None:
    one, two = (Places.private(tmp_path / ("x" * 100) / name) for name in "ab")
    assert one.runtime != two.runtime
    assert one.runtime == Places.private(tmp_path / ("x" * 100) / "a").runtime


def test_a_private_server_lies_in_its_directory() -> None:
    places = Places.private(Path("/short"))
    assert {p.parts[:2] for p in (places.socket, places.data, places.log)} == {("/", "short")}


def test_odd_characters_are_quoted_in_the_url() -> None:
    assert Places.private(Path("/a b?#")).url == "unix:///a%20b%3F%23/run/server.sock"


def test_a_claimed_directory_is_closed_to_others(tmp_path: Path) -> None:
    claim(tmp_path / "one" / "two")
    assert (tmp_path / "one" / "two").stat().st_mode & 0o777 == 0o700
    claim(tmp_path / "one" / "two")


def test_a_directory_that_others_can_enter_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o750)
    with pytest.raises(EmbeddedUnavailable, match=f"chmod 700 {tmp_path}/open"):
        claim(tmp_path / "open")


def test_a_link_to_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "connection").symlink_to(tmp_path / "real")
    with pytest.raises(EmbeddedUnavailable, match="not a directory of yours"):
        claim(tmp_path / "connection")


@pytest.mark.skipif(UID != 0, reason="only root can give a directory away")
def test_someone_elses_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, -1)
    with pytest.raises(EmbeddedUnavailable, match="uid 12345"):
        claim(tmp_path / "theirs")


def test_a_directory_that_cannot_be_made_names_the_variables(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match="XDG_RUNTIME_DIR"):
        claim(tmp_path / "file" / "rqproc")


def test_without_a_home_the_state_is_beside_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's uid has no entry in passwd, and HOME is not set there."""

    def none(_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(none))
    places = Places.of_user({"TMPDIR": "/scratch"})
    assert places.state == Path(f"/scratch/rqproc-{os.getuid()}-state/rqproc")
