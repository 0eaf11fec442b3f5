"""Runs nats-py, unmodified, against a server that speaks the NATS protocol.

    NATS_URL=nats://127.0.0.1:4222 SERVER_KIND=claudebus python tests/python/test_nats.py

SERVER_KIND is `claudebus` or `nats-server`: what holds for one must hold for the other, and the test
of what only claudebus has says so. With SERVER_COMMAND, a list in JSON, the tests start such a server
themselves, to kill it and start it again: `{port}` in the list is the port of its NATS listener,
`{data}` the directory where it keeps its data.
"""

import unittest

from nats_suites.bus import EventBus
from nats_suites.core import Core
from nats_suites.kv import KeyValue
from nats_suites.objects import Objects
from nats_suites.pull import Pull
from nats_suites.push import Push
from nats_suites.restart import Restart
from nats_suites.streams import Publish, Streams

__all__ = [
    "Core", "EventBus", "KeyValue", "Objects", "Publish", "Pull", "Push", "Restart", "Streams"]

if __name__ == "__main__":
    unittest.main()
