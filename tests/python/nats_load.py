"""Publishes through nats-py for as long as it runs, and says what was acknowledged.

Usage: nats_load.py URL. A line on standard output for each acknowledged message: the sequence and
the message's name. The server may be killed and started again at any time.
"""

import asyncio
import sys

import nats
from nats.errors import Error

SUBJECT = "crash.python"
WORKERS = 16
PATIENCE = 2


async def ignore(_error):
    """The connection breaks often; that is what this is for."""


async def publish(js, names):
    for name in names:
        while True:
            try:
                ack = await js.publish(
                    SUBJECT, name.encode(), timeout=PATIENCE, headers={"Nats-Msg-Id": name})
                print(ack.seq, name, flush=True)
                break
            except (Error, asyncio.TimeoutError, OSError):
                # The same message again, under the same id, until it is stored once.
                await asyncio.sleep(0.01)


def names(first):
    number = first
    while True:
        yield f"p{number}"
        number += WORKERS


async def main():
    nc = await nats.connect(
        sys.argv[1], max_reconnect_attempts=-1, reconnect_time_wait=0.01, error_cb=ignore)
    js = nc.jetstream()
    await asyncio.gather(*(publish(js, names(worker)) for worker in range(WORKERS)))


asyncio.run(main())
