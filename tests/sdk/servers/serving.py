"""How our Python servers are served: on loopback, with `ready PORT` said once they accept, and with what they saw.

A server binds before it says its port, so a port of 0 is safe. What it counts stands at `/stats`: `initialize` requests
are sessions opened here, statuses are what left here.
"""

import asyncio
import collections
import json
import socket

import uvicorn

statuses: collections.Counter = collections.Counter()
seen: collections.Counter = collections.Counter()


class Counted:
    """Counts statuses and `initialize` bodies as they pass without touching them, and answers `/stats`."""

    def __init__(self, app, more=dict):
        self.app, self.more = app, more

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] == "/stats":
            return await self.stats(send)

        async def counted_receive():
            message = await receive()
            if message["type"] == "http.request" and b'"initialize"' in message.get("body", b""):
                seen["initialize"] += 1
            return message

        async def counted_send(message):
            if message["type"] == "http.response.start":
                statuses[message["status"]] += 1
            await send(message)

        return await self.app(scope, counted_receive, counted_send)

    async def stats(self, send):
        said = {"seen": dict(seen), "statuses": {str(k): v for k, v in statuses.items()}, **self.more()}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})


class Announced(uvicorn.Server):
    """Says `ready PORT` once it accepts."""

    async def startup(self, sockets=None):
        await super().startup(sockets=sockets)
        if self.started:
            print(f"ready {sockets[0].getsockname()[1]}", flush=True)


def serve(app, port: int, more=dict) -> None:
    """Serves an ASGI application until it is ended; `more` is what it adds to its counts."""
    # With the protocol named, or asyncio does not switch Nagle's algorithm off (40 ms in every answer).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    counted = Counted(app, more)
    config = uvicorn.Config(counted, log_level="warning", timeout_graceful_shutdown=1, lifespan="on")
    asyncio.run(Announced(config).serve(sockets=[listener]))
