"""The embedded server with real processes: who starts it, who keeps it, who ends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

import rqproc.server
from rqproc.errors import ConfigError, EmbeddedUnavailable
from rqproc.server import Embedded, Places, locks

SOURCE = Path(rqproc.server.__file__).parents[2]

USER = """
import os, signal, sys
from pathlib import Path
from rqproc.server import Embedded, Places
server = Embedded(Places.private(Path(sys.argv[1])))
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class User:
    """A process that does what it is told, one expression after the other."""

    def __init__(self, directory: Path, environ: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", USER, str(directory)],
            env=os.environ | {"PYTHONPATH": str(SOURCE)} | (environ or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def tell(self, expression: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def do(self, expression: str) -> str:
        self.tell(expression)
        return self.answer()

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def wait(self) -> None:
        self._process.wait(10)

    def leave(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Stage:
    """One private server's directory, the users on it, and what is seen from outside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.places = Places.private(directory)
        self.server = Embedded(self.places)
        self._users: list[User] = []

    def user(self, *, attached: bool = True) -> User:
        user = User(self.directory)
        self._users.append(user)
        if attached:
            assert user.do("server.ensure()") == self.server.url()
        return user

    def pid(self) -> int:
        pid = self.server.status().pid
        assert pid is not None
        return pid

    def ended(self) -> bool:
        """Whether neither the server nor its keeper lives."""
        return not locks.held(self.places.server_lock)

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url(), decode_responses=True)

    def clean_up(self) -> None:
        for user in self._users:
            user._process.kill()
            user.leave()
        self.server.stop(force=True)
        assert self.ended()
        shutil.rmtree(self.places.runtime, ignore_errors=True)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.clean_up()


def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def parent_of(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


# -- starting


def test_ensure_starts_a_server_and_tells_its_url(stage: Stage) -> None:
    assert stage.server.ensure() == stage.server.url()
    with stage.redis() as client:
        assert client.ping()
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("stream-node-max-bytes") == {"stream-node-max-bytes": "256"}
        assert client.config_get("port") == {"port": "0"}


def test_ensure_again_keeps_the_server(stage: Stage) -> None:
    stage.server.ensure()
    first = stage.pid()
    stage.server.ensure()
    assert stage.pid() == first


def test_ten_processes_that_start_at_once_share_one_server(stage: Stage) -> None:
    users = [stage.user(attached=False) for _ in range(10)]
    assert [user.do("'ready'") for user in users] == ["ready"] * 10
    for user in users:
        user.tell("server.ensure(), server.status().pid")
    assert {user.answer() for user in users} == {str((stage.server.url(), stage.pid()))}


def test_threads_that_start_at_once_share_one_server(stage: Stage) -> None:
    pids: list[int | None] = []

    def start() -> None:
        server = Embedded(stage.places)
        server.ensure()
        pids.append(server.status().pid)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pids == [stage.pid()] * 8


def test_the_environment_says_where_the_shared_server_lives(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "r"), "XDG_STATE_HOME": str(tmp_path / "s")}
    places = Places.of_user(environ)
    users = [User(tmp_path, environ) for _ in range(2)]
    try:
        for user in users:
            assert user.do("Embedded().ensure()") == places.url
        assert len(Embedded(places).status().users or (1, 2)) == 2
    finally:
        for user in users:
            user.leave()
        Embedded(places).stop(force=True)


def test_a_stale_socket_is_replaced(stage: Stage) -> None:
    stage.server.ensure()
    os.kill(stage.pid(), signal.SIGKILL)
    eventually(stage.ended)
    with socket_at(stage.places.socket):
        pass
    assert stage.places.socket.is_socket()
    stage.server.ensure()
    assert stage.server.status().running


def socket_at(path: Path):  # type: ignore[no-untyped-def]
    import socket

    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    return stale


def test_a_long_directory_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    stage = Stage(tmp_path / ("x" * 100))
    try:
        stage.server.ensure()
        assert not stage.places.runtime.is_relative_to(tmp_path)
        assert stage.places.data.is_relative_to(tmp_path)
    finally:
        stage.clean_up()


def test_redis_reads_the_url_of_a_directory_with_odd_characters(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "a b?#%20")
    try:
        stage.server.ensure()
        with stage.redis() as client:
            assert client.ping()
    finally:
        stage.clean_up()


def test_nobody_else_can_read_the_files(stage: Stage) -> None:
    assert stage.user(attached=False).do("os.umask(0), server.ensure()")
    for top in (stage.places.runtime, stage.places.state):
        for path in (top, *top.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_server_that_is_loading_is_waited_for(stage: Stage, tmp_path: Path) -> None:
    program = script(
        tmp_path / "server",
        f"#!{sys.executable}\n"
        "import socket, sys\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[sys.argv.index('--unixsocket') + 1])\n"
        "listener.listen()\n"
        "for reply in [b'-LOADING reading\\r\\n'] * 5 + [b'+PONG\\r\\n'] * 1000:\n"
        "    connection, _ = listener.accept()\n"
        "    connection.sendall(reply)\n"
        "    print('sent', reply, flush=True)\n",
    )
    Embedded(stage.places, program=program).ensure()
    assert stage.places.log.read_text().count("LOADING") == 5


# -- the last user


def test_the_last_user_to_leave_stops_the_server(stage: Stage) -> None:
    one, two = stage.user(), stage.user()
    one.leave()
    assert two.do("server.status().running") == "True"
    two.leave()
    eventually(stage.ended)
    assert not stage.places.socket.exists()


def test_a_killed_user_does_not_keep_the_server_alive(stage: Stage) -> None:
    user = stage.user()
    user.signal(signal.SIGKILL)
    eventually(stage.ended)


def test_the_server_survives_the_death_of_whoever_started_it(stage: Stage) -> None:
    starter = stage.user()
    other = stage.user()
    pid = stage.pid()
    starter.signal(signal.SIGKILL)
    starter.wait()
    assert other.do("server.ensure()") == stage.server.url()
    assert stage.pid() == pid


def test_ctrl_c_at_the_starter_does_not_reach_the_server(stage: Stage) -> None:
    starter = stage.user()
    other = stage.user()
    pid = stage.pid()
    starter.signal(signal.SIGINT)
    starter.wait()
    assert os.getsid(pid) != starter.pid
    assert other.do("server.ensure()") == stage.server.url()
    assert stage.pid() == pid


def test_what_the_starter_did_to_its_signals_does_not_reach_the_server(stage: Stage) -> None:
    user = stage.user(attached=False)
    user.do("signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})")
    user.do("[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGCHLD)]")
    assert user.do("server.ensure()") == stage.server.url()
    with stage.redis() as client:
        client.bgrewriteaof()  # whose child the server must be able to wait for
        eventually(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    user.leave()
    eventually(stage.ended, within_s=5)
    assert not stage.places.socket.exists()


def test_release_ends_the_server_while_the_process_lives_on(stage: Stage) -> None:
    stage.server.ensure()
    stage.server.release()
    eventually(stage.ended)
    stage.server.release()


def test_a_process_uses_the_server_until_its_last_embedded_is_released(stage: Stage) -> None:
    one, two = Embedded(stage.places), Embedded(stage.places)
    one.ensure()
    two.ensure()
    one.release()
    assert stage.server.status().in_use
    two.release()
    eventually(stage.ended)


def test_a_forked_child_goes_on_using_the_server(stage: Stage) -> None:
    user = stage.user()
    child = int(user.do("os.fork() or signal.pause()"))
    user.do("server.release()")
    user.leave()
    try:
        assert stage.server.status().running
        with pytest.raises(ConfigError):
            stage.server.stop()
    finally:
        os.kill(child, signal.SIGKILL)
    eventually(stage.ended)


def test_a_program_run_by_a_user_is_no_user(stage: Stage) -> None:
    user = stage.user()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = int(user.do(f"__import__('subprocess').Popen({command}, close_fds=False).pid"))
    try:
        user.leave()
        eventually(stage.ended)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_user_that_comes_while_the_server_stops_gets_a_new_one(stage: Stage) -> None:
    met = 0
    for _ in range(10):
        stage.server.ensure()
        stage.server.release()
        # It may have stopped before we look.
        eventually(lambda: locks.held(stage.places.users_lock) or stage.ended())
        met += not stage.ended()
        stage.server.ensure()
        with stage.redis() as client:
            assert client.ping()
    assert met


def test_users_that_come_and_go_always_meet_a_server_and_lose_nothing(stage: Stage) -> None:
    visit = (
        f"sys.path.insert(0, {str(SOURCE)!r}) or [(server.ensure(), "
        "__import__('redis').Redis.from_url(server.url()).incr('visits'), "
        "server.release()) for _ in range(15)] and 'done'"
    )
    users = [stage.user(attached=False) for _ in range(4)]
    for user in users:
        user.tell(visit)
    assert [user.answer() for user in users] == ["done"] * 4
    stage.server.ensure()
    with stage.redis() as client:
        assert client.get("visits") == "60"


# -- data


def test_data_survives_the_servers_stop(stage: Stage) -> None:
    stage.server.ensure()
    with stage.redis() as client:
        client.set("a", "1")
    assert stage.server.stop()
    stage.server.ensure()
    with stage.redis() as client:
        assert client.get("a") == "1"


def test_two_runtime_directories_cannot_share_one_data_directory(
    stage: Stage, tmp_path: Path
) -> None:
    stage.server.ensure()
    other = Embedded(Places(tmp_path / "elsewhere", stage.places.state))
    for attempt in (other.ensure, other.status, other.stop):
        with pytest.raises(EmbeddedUnavailable, match="XDG_RUNTIME_DIR") as caught:
            attempt()
        assert str(stage.places.socket) in str(caught.value)
    assert stage.server.status().running


def test_a_log_that_has_grown_large_is_cut_at_the_next_start(stage: Stage) -> None:
    stage.server.ensure()
    stage.server.stop()
    with stage.places.log.open("a") as log:
        log.write("x" * 1_000_001)
    stage.server.ensure()
    assert stage.places.log.stat().st_size < 100_000


# -- killed


def test_after_the_server_was_killed_ensure_starts_one_with_the_data(stage: Stage) -> None:
    stage.server.ensure()
    with stage.redis() as client:
        client.set("a", "1")
        client.config_set("appendfsync", "always")
        client.set("b", "2")
    first = stage.pid()
    os.kill(first, signal.SIGKILL)
    stage.server.ensure()
    assert stage.pid() != first
    with stage.redis() as client:
        assert client.mget("a", "b") == ["1", "2"]


def test_a_torn_end_of_the_data_file_is_cut_off(stage: Stage) -> None:
    stage.server.ensure()
    with stage.redis() as client:
        client.set("a", "1")
    stage.server.stop()
    file = next(stage.places.data.glob("**/*.incr.aof"))
    file.write_bytes(file.read_bytes() + b"*3\r\n$3\r\nSET\r\n$1\r")
    stage.server.ensure()
    with stage.redis() as client:
        assert client.get("a") == "1"


def test_after_the_keeper_was_killed_ensure_starts_a_server_with_a_keeper(stage: Stage) -> None:
    user = stage.user()
    with stage.redis() as client:
        client.set("a", "1")
    first = stage.pid()
    os.kill(parent_of(first), signal.SIGKILL)
    eventually(lambda: not locks.held(stage.places.keeper_lock))
    assert user.do("server.ensure()") == stage.server.url()
    assert stage.pid() != first
    with stage.redis() as client:
        assert client.get("a") == "1"
    user.leave()
    eventually(stage.ended)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_the_server_does_not_survive_its_keeper(stage: Stage) -> None:
    stage.server.ensure()
    os.kill(parent_of(stage.pid()), signal.SIGKILL)
    eventually(stage.ended)


ORPHAN = """
import fcntl, os, sys
socket, lock, *command = sys.argv[1:]
guard = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(guard, fcntl.LOCK_EX)
os.write(guard, f"{os.getpid()}\\n{socket}\\n".encode())
os.set_inheritable(guard, True)
os.execv(command[0], [*command, "--port", "0", "--unixsocket", socket, "--save", ""])
"""


@pytest.fixture
def orphan(stage: Stage) -> Iterator[int]:
    """A server without a keeper, as one is left where the kernel does not end it."""
    places = stage.places
    for directory in (places.runtime, places.state, places.data):
        directory.mkdir(mode=0o700)
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, places.socket, places.server_lock, stage.server.binary()],
        cwd=places.data,
        stdout=subprocess.DEVNULL,
    )
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    eventually(lambda: stage.server.status().version is not None)
    yield process.pid
    process.kill()
    reaper.join()


def test_ensure_replaces_an_orphan(stage: Stage, orphan: int) -> None:
    stage.server.ensure()
    assert stage.pid() != orphan
    assert parent_of(stage.pid()) != os.getpid()


def test_stop_ends_an_orphan(stage: Stage, orphan: int) -> None:
    assert stage.pid() == orphan
    assert stage.server.stop()
    assert stage.ended()


def test_a_runtime_directory_that_was_emptied_is_filled_again(stage: Stage) -> None:
    old, user = stage.user(), stage.user()
    shutil.rmtree(stage.places.runtime)
    assert user.do("server.ensure()") == stage.server.url()
    pid = stage.pid()
    old.leave()
    assert user.do("server.ensure()") == stage.server.url()
    assert stage.pid() == pid
    user.leave()
    eventually(stage.ended)


def test_a_users_lock_that_was_removed_does_not_end_the_server(stage: Stage) -> None:
    old = stage.user()
    stage.places.users_lock.unlink()
    new = stage.user()
    pid = stage.pid()
    old.leave()
    with pytest.raises(AssertionError):
        eventually(stage.ended, within_s=0.5)
    assert new.do("server.ensure(), server.status().pid") == str((stage.server.url(), pid))
    new.leave()
    eventually(stage.ended)


def test_a_process_that_only_has_the_servers_number_is_not_signalled(stage: Stage) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    for directory in (stage.places.runtime, stage.places.state):
        directory.mkdir(mode=0o700)
    lock = locks.try_lock(stage.places.server_lock)
    assert lock is not None
    os.write(lock, f"{bystander.pid}\n{stage.places.socket}\n".encode())
    try:
        with pytest.raises(EmbeddedUnavailable, match=r"server\.lock"):
            stage.server.ensure()
        assert bystander.poll() is None
    finally:
        locks.unlock(lock)
        bystander.kill()
        bystander.wait()


# -- what does not start


def test_a_server_that_cannot_start_is_an_error_with_the_log(stage: Stage) -> None:
    stage.server.ensure()
    stage.server.stop()
    next(stage.places.data.glob("**/*.manifest")).write_text("rubbish\n")
    began_s = time.monotonic()
    with pytest.raises(EmbeddedUnavailable, match=r"(?i)manifest") as caught:
        stage.server.ensure()
    assert time.monotonic() - began_s < 5
    assert str(stage.places.log) in str(caught.value)
    assert "--url" in str(caught.value)
    eventually(stage.ended)


def test_a_program_that_ends_at_once_is_an_error_with_its_words(
    stage: Stage, tmp_path: Path
) -> None:
    program = script(tmp_path / "server", "#!/bin/sh\necho wrong machine >&2\nexit 3\n")
    with pytest.raises(EmbeddedUnavailable, match=r"wrong machine\n.*ended with status 3"):
        Embedded(stage.places, program=program).ensure()


def test_a_program_that_cannot_be_run_is_an_error(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=r"cannot run .*nothing: No such file"):
        Embedded(stage.places, program=tmp_path / "nothing").ensure()


def test_a_server_that_never_answers_is_given_up_and_ended(stage: Stage, tmp_path: Path) -> None:
    program = script(tmp_path / "server", "#!/bin/sh\nexec sleep 60\n")
    server = Embedded(stage.places, program=program)
    with pytest.raises(EmbeddedUnavailable, match="within 5 s"):
        server.ensure()
    eventually(stage.ended)


def test_after_a_failed_start_the_next_one_can_succeed(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedUnavailable):
        Embedded(stage.places, program=tmp_path / "nothing").ensure()
    stage.server.ensure()
    assert stage.server.status().running


def test_an_unsafe_runtime_directory_is_refused(stage: Stage) -> None:
    stage.places.runtime.mkdir(mode=0o755)
    with pytest.raises(EmbeddedUnavailable, match="chmod 700"):
        stage.server.ensure()


# -- status and stop


def test_status_starts_nothing(stage: Stage) -> None:
    status = stage.server.status()
    assert (status.running, status.pid, status.in_use) == (False, None, False)
    assert not stage.places.runtime.exists()


def test_status_tells_about_a_running_server(stage: Stage) -> None:
    user = stage.user()
    with stage.redis() as client:
        client.mset({"a": 1, "b": 2})
    status = stage.server.status()
    assert status.running
    assert status.in_use
    assert status.users in ((user.pid,), None)
    assert status.keys == 2
    assert status.version is not None
    assert status.memory_bytes is not None
    assert status.memory_bytes > 1_000_000


def test_a_server_that_hangs_is_still_running(stage: Stage) -> None:
    stage.server.ensure()
    pid = stage.pid()
    os.kill(pid, signal.SIGSTOP)
    status = stage.server.status()
    os.kill(pid, signal.SIGCONT)
    assert (status.running, status.pid, status.version) == (True, pid, None)


def test_stop_is_refused_while_another_process_uses_the_server(stage: Stage) -> None:
    user = stage.user()
    stage.server.ensure()
    with pytest.raises(ConfigError, match="--force") as caught:
        stage.server.stop()
    assert str(os.getpid()) not in str(caught.value)
    assert stage.server.status().users in (tuple(sorted((user.pid, os.getpid()))), None)
    user.leave()
    assert stage.server.status().running


def test_stop_does_not_count_the_process_that_asks(stage: Stage) -> None:
    Embedded(stage.places).ensure()
    assert stage.server.stop()
    assert stage.ended()


def test_a_refused_stop_does_not_make_its_process_a_user(stage: Stage) -> None:
    user = stage.user()
    with pytest.raises(ConfigError):
        stage.server.stop()
    user.leave()
    eventually(stage.ended)


def test_a_forced_stop_ends_the_server_under_its_users(stage: Stage) -> None:
    user = stage.user()
    assert stage.server.stop(force=True)
    assert stage.ended()
    assert user.do("server.ensure()") == stage.server.url()
    assert stage.server.status().running


def test_stop_without_a_server_says_so(stage: Stage) -> None:
    assert stage.server.stop() is False


def test_the_package_loads_without_the_client_libraries() -> None:
    heavy = {"redis", "rq", "valkey", "subprocess", "asyncio"}
    code = f"import sys, rqproc.server; print({heavy} & {{*sys.modules}})"
    environ = os.environ | {"PYTHONPATH": str(SOURCE)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environ) == b"set()\n"
