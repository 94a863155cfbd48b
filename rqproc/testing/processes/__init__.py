"""The cluster of real processes: an embedded server, nodes that are forked, and a network to break.

Reading order: ``cluster`` -> ``spawner`` and ``node_process`` (nodes), on ``forks`` -> ``network``
(on ``lab.proxy``); ``journal``, ``event_log`` and ``gates`` are how the nodes tell
what happens in them, and wait where they are held; ``callers`` is the test's own side.
"""
