"""Tests of the NATS listener through nats-py, a client that knows nothing of this server."""
