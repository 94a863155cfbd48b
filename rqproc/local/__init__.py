"""A program without a cluster: ``local://``, and the handlers that a client runs itself.

``backend`` is what clients ask; it finds its ``worker`` by ``spaces``. ``fallback`` runs a handler
where no node can answer.
"""
