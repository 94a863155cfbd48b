"""Bytes to and from a Redis server: addresses, connections, what its errors mean."""
