"""Agents that live through a restart of the gateway, with the real `mcp` 1.x or 2.x client.

Each connects and calls once, `ready N` is printed, and after a line on standard input each calls again with the
client it has. Prints one JSON object: how many of those calls were answered, in which revisions, and what the others
said.
"""

import argparse
import asyncio
import collections
import json
import sys
import uuid

from clients import CLIENTS, MODES, said


async def echo(client):
    nonce = uuid.uuid4().hex
    answer = await client.call("echo", {"nonce": nonce})
    if answer != nonce:
        raise RuntimeError(f"asked with {nonce}, answered {answer[:80]!r}")


async def one(options, ready: asyncio.Semaphore, go: asyncio.Event, ended: asyncio.Semaphore, failed, spoken):
    """Entering and leaving a client must happen in one task."""
    make = CLIENTS[options.client]
    try:
        async with make(options.url, options.transport, options.patience, mode=options.mode) as client:
            spoken.add(client.spoken)
            await echo(client)
            ready.release()
            await go.wait()
            try:
                await echo(client)
            except Exception as error:
                failed[said(error)] += 1
            ended.release()
            await asyncio.sleep(3600)  # until the driver ends: closing is the matrix's business
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        failed["client ended: " + said(error)] += 1
        ended.release()
        raise


async def run(options) -> int:
    ready, ended, go = asyncio.Semaphore(0), asyncio.Semaphore(0), asyncio.Event()
    failed: collections.Counter = collections.Counter()
    spoken: set[str] = set()
    agents = (one(options, ready, go, ended, failed, spoken) for _ in range(options.agents))
    tasks = [asyncio.create_task(agent) for agent in agents]
    for _ in tasks:
        await ready.acquire()
    print(f"ready {options.agents}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    go.set()
    for _ in tasks:
        await ended.acquire()
    ok = options.agents - sum(failed.values())
    print(json.dumps({"ok": ok, "failed": dict(failed), "spoken": sorted(spoken)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--transport", required=True)
    parser.add_argument("--mode", choices=MODES, help="of finding out the era; the SDK's own unless given")
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--patience", type=float, default=30)
    options = parser.parse_args()
    sys.exit(asyncio.run(run(options)))


main()
