"""The cluster of real processes: an embedded server, nodes that are forked, and a network to break.

Reading order: ``cluster`` -> ``nursery`` and ``housed`` (nodes), on ``forks`` -> ``doors`` and
``passage`` (the network) -> ``server``; ``journal``, ``story`` and ``gates`` are how the nodes tell
what happens in them, and wait where they are held; ``callers`` is the test's own side.
"""
