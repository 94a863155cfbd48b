"""The cluster in memory: real clients, nodes and functions on fakeredis and a clock that is turned.

Reading order: ``cluster`` -> ``simulation`` (one thread at a time, and a clock) -> ``still`` and
``loop`` (what waits by it), put together in ``runtime`` -> ``connections`` (connections, and what
goes wrong with them) -> ``fakeserver`` and ``client`` (fakeredis); ``gates`` is where runs are
held, ``asking`` how event loops ask.
"""
