"""Handlers in the program that asks: ``local://``, and the fallback of ``on_lost="local"``.

``backend`` is what clients ask; it finds its ``worker`` by a place, see ``spaces``. ``fallback`` is
the place where clients meet whose cluster cannot answer.
"""
