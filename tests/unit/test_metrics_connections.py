"""What becomes of connections to a node's metrics that are no good."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler

import pytest

from rqproc.node.metrics import _Server


@pytest.mark.parametrize(
    ("error", "told"),
    [(ConnectionResetError(), False), (TimeoutError(), False), (KeyError(), True)],
)
def test_who_has_gone_is_not_told_of_and_a_defect_is(
    error: Exception, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with _Server("127.0.0.1", 0, BaseHTTPRequestHandler) as server:
        try:
            raise error
        except type(error):
            server.handle_error(None, ("127.0.0.1", 1))
    assert ("Traceback" in capsys.readouterr().err) is told
