"""The server that rqproc starts itself, shared by all processes of a user on a machine.

``Embedded`` is the one entry; ``Places`` says where it lives. Nobody outside this package may know
how the server is started, found or stopped. Cheap to import: no redis, no rq.
"""

from rqproc.server.launcher import Embedded, Status
from rqproc.server.places import Places

__all__ = ["Embedded", "Places", "Status"]
