"""The user's scenario with the real `mcp` 1.x client: parallel executors, a new session every round.

A round is connect, initialize, initialized, tools/list, one tools/call with a nonce, close. Prints one JSON
object: successes, HTTP statuses as the agents saw them, and the time of whole rounds and of single calls.
All clients share one TLS context: building it costs more than the round does, and no TLS is spoken here.
"""

import argparse
import asyncio
import collections
import json
import logging
import ssl
import sys
import time
import uuid

import httpx
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client

from clients import said, text_of

CONTEXT = ssl.create_default_context()


class Tally:
    """What all executors saw together."""

    def __init__(self):
        self.statuses: collections.Counter = collections.Counter()
        self.errors: collections.Counter = collections.Counter()
        self.rounds: list[float] = []
        self.calls: list[float] = []
        self.failed = 0

    def client(self, headers=None, timeout=None, auth=None):
        async def note(response):
            self.statuses[response.status_code] += 1

        return httpx.AsyncClient(
            headers=headers,
            timeout=timeout or httpx.Timeout(30),
            auth=auth,
            verify=CONTEXT,
            follow_redirects=True,
            event_hooks={"response": [note]},
        )


async def one_round(options, tally: Tally):
    connect = sse_client if options.transport == "sse" else streamablehttp_client
    async with connect(options.url, httpx_client_factory=tally.client) as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            tools = (await session.list_tools()).tools
            if not any(tool.name == "echo" for tool in tools):
                raise RuntimeError("no tool echo in the list")
            nonce = uuid.uuid4().hex
            began = time.monotonic()
            answer = text_of(await session.call_tool("echo", {"nonce": nonce}))
            tally.calls.append(time.monotonic() - began)
            if answer != nonce:
                raise RuntimeError(f"asked with {nonce}, answered {answer[:80]!r}")


async def executor(options, tally: Tally):
    for _ in range(options.rounds):
        began = time.monotonic()
        try:
            async with asyncio.timeout(options.patience):
                await one_round(options, tally)
            tally.rounds.append(time.monotonic() - began)
        except BaseException as error:  # a broken transport ends as a cancellation in this SDK
            tally.failed += 1
            tally.errors[said(error)[:160]] += 1


def quantile(values: list[float], q: float) -> float:
    """The q-quantile in milliseconds, or 0 of nothing."""
    values = sorted(values)
    return round(values[min(len(values) - 1, int(len(values) * q))] * 1000, 1) if values else 0.0


async def run(options) -> int:
    tally = Tally()
    began = time.monotonic()
    await asyncio.gather(*(executor(options, tally) for _ in range(options.executors)))
    took = time.monotonic() - began
    total = options.executors * options.rounds
    print(
        json.dumps(
            {
                "total": total,
                "ok": len(tally.rounds),
                "failed": tally.failed,
                "http_400": tally.statuses[400],
                "http_4xx_5xx": sum(n for status, n in tally.statuses.items() if status >= 400),
                "statuses": {str(k): v for k, v in sorted(tally.statuses.items())},
                "round_p50_ms": quantile(tally.rounds, 0.50),
                "round_p99_ms": quantile(tally.rounds, 0.99),
                "call_p50_ms": quantile(tally.calls, 0.50),
                "call_p99_ms": quantile(tally.calls, 0.99),
                "rounds_per_second": round(total / took, 1),
                "errors": dict(tally.errors.most_common(3)),
            }
        ),
        flush=True,
    )
    return 0 if len(tally.rounds) == total else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--executors", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for one round")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
