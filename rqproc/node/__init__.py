"""A node: one process that serves the ids it owns.

::

      heart ──beat──▶ Redis ◀──adopt── porter (ingress queue)
                        │
    finish, take ▲      ▼ claims
                 worker ──▶ desk ──▶ entry: answered at once
                   ▲          │
                   │          ▼ lane per key
                   └─outcome─ runner (threads, one event loop)

* ``worker`` alone touches the desk; every other thread sends it messages and wakes it.
* ``desk``, ``lanes`` and ``entries`` are pure: no thread, no socket, no clock of their own.
* ``heart`` keeps the lease and says how long it may be relied on.
* ``node`` starts these in one order and stops them in another.
"""
