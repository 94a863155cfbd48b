"""The cluster in memory: real clients, nodes and functions on fakeredis and a clock that is turned.

Reading order: ``cluster`` -> ``simulation`` (one thread at a time, and a clock), with its
``participants`` -> ``primitives`` and ``event_loop`` (what waits by it), put together in
``runtime`` -> ``connections`` (connections, and what goes wrong with them) -> ``fake_server`` and
``redis_client`` (fakeredis); ``gates`` is where runs are held, ``async_asker`` how event loops ask.
"""
