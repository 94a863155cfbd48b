"""What commands do where their output cannot be written: a clear line, and a code that says so."""

from __future__ import annotations

import subprocess

import pytest
from integration import kit


def ended(shop: str, shell: str) -> tuple[int, str]:
    """Run a line of shell in which $RQ is the command; return code and stderr."""
    env = kit.environ(shop, "shop", RQ=" ".join(kit.RQPROC))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"], env=env, capture_output=True, text=True,
        timeout=50, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("to", [">&-", ">/dev/full"])
@pytest.mark.parametrize("command", ["top -i 0.1", "top --json --count 1", "dashboard --port 0"])
def test_output_that_cannot_be_written_is_a_clear_line(shop: str, command: str, to: str) -> None:
    code, err = ended(shop, f"$RQ {command} {to}")
    assert code == 1
    assert err.startswith("error: cannot write to standard output: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["top --json -i 0.1", "top -i 0.1"])
def test_0_and_silence_where_the_reader_of_a_pipe_has_gone(shop: str, command: str) -> None:
    reader = "head -1 >/dev/null" if "--json" in command else "exec 0<&-"
    assert ended(shop, f"$RQ {command} | {{ {reader}; }}") == (0, "")


@pytest.mark.parametrize("command", ["top", "dashboard --port 0"])
@pytest.mark.parametrize("interval", ["nan", "inf", "0", "-1"])
def test_2_where_an_interval_is_none(shop: str, command: str, interval: str) -> None:
    code, err = ended(shop, f"$RQ {command} --interval {interval}")
    assert code == 2
    assert "--interval" in err
