"""`kill -9` and restart of a real backend under many agents, with the real `mcp` 1.x client.

The driver owns the backend (everything after `--` is its command, the port is fixed by --port), so it knows
how many calls were in flight at each kill and can time the first success after the port is open again. Agents
initialise once and call a read-only tool in a loop; one of them calls a tool that takes no time, without a pause,
so that the first success is not late by the length of a call. Prints one JSON object.
"""

import argparse
import asyncio
import collections
import json
import logging
import random
import signal
import sys
import time
import uuid


from clients import Mcp1, said, text_of
from scenario import Tally, quantile


class Agents:
    """All agents: what is in flight, what failed, and when the last success was."""

    def __init__(self, options):
        self.options = options
        self.tally = Tally()
        self.flying = 0
        self.ok = 0
        self.failed: collections.Counter = collections.Counter()
        self.success: asyncio.Event = asyncio.Event()
        self.stop = asyncio.Event()
        self.ready = 0

    async def one(self, number: int):
        client = CountedMcp1(self.options.url, self.options.transport, self.options.patience, self.tally)
        try:
            await client.__aenter__()
        except BaseException as error:
            self.failed["handshake: " + said(error)] += 1
            return
        self.ready += 1
        eager = number == 0
        while not self.stop.is_set():
            await self.call(client, eager)
            await asyncio.sleep(0.02 if eager else random.uniform(0.5, 1.5) * self.options.pause)
        try:
            async with asyncio.timeout(5):
                await client.__aexit__(None, None, None)
        except BaseException:
            pass  # closing is the matrix's business

    async def call(self, client, eager: bool):
        nonce = uuid.uuid4().hex
        tool = "echo" if eager else "slow"
        arguments = {"nonce": nonce} if eager else {"ms": self.options.hold_ms, "nonce": nonce}
        self.flying += 1
        began = time.monotonic()
        try:
            answer = await client.call(tool, arguments)
            if answer != nonce:
                raise RuntimeError(f"asked with {nonce}, answered {answer[:80]!r}")
            self.ok += 1
            self.tally.calls.append(time.monotonic() - began)
            self.success.set()
        except BaseException as error:
            self.failed[said(error)] += 1
        finally:
            self.flying -= 1


class CountedMcp1(Mcp1):
    """The same client, with every HTTP status counted."""

    def __init__(self, url, transport, timeout, tally: Tally):
        super().__init__(url, transport, timeout)
        self.tally = tally

    def _connect(self):
        if self.transport == "sse":
            from mcp.client.sse import sse_client

            return sse_client(self.url, httpx_client_factory=self.tally.client)
        from mcp.client.streamable_http import streamablehttp_client

        return streamablehttp_client(self.url, httpx_client_factory=self.tally.client)


async def start(options) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *options.backend, "--port", str(options.port), stdout=asyncio.subprocess.DEVNULL
    )


async def port_open(port: int, within: float):
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return time.monotonic()
        except OSError:
            await asyncio.sleep(0.02)
    raise RuntimeError(f"backend did not open port {port} within {within} s")


async def run(options) -> int:
    backend = await start(options)
    try:
        await port_open(options.port, 30)
        agents = Agents(options)
        tasks = [asyncio.create_task(agents.one(number)) for number in range(options.agents)]
        kills = []
        end = time.monotonic() + options.seconds
        while agents.ready < options.agents and not agents.failed and time.monotonic() < end:
            await asyncio.sleep(0.05)
        end = time.monotonic() + options.seconds
        while time.monotonic() + options.every <= end:
            await asyncio.sleep(options.every / 2)
            while agents.flying == 0:
                await asyncio.sleep(0.005)
            kill = {"in_flight": agents.flying}
            backend.send_signal(signal.SIGKILL)
            await backend.wait()
            backend = await start(options)
            opened = await port_open(options.port, 30)
            agents.success.clear()
            try:
                await asyncio.wait_for(agents.success.wait(), 15)
                kill["first_success_ms"] = round((time.monotonic() - opened) * 1000)
            except TimeoutError:
                kill["first_success_ms"] = None
            kills.append(kill)
            await asyncio.sleep(options.every / 2)
        agents.stop.set()
        await asyncio.wait(tasks, timeout=options.patience)
        return report(options, agents, kills)
    finally:
        if backend.returncode is None:
            backend.kill()
            await backend.wait()


def report(options, agents: Agents, kills: list[dict]) -> int:
    failed = sum(agents.failed.values())
    statuses = agents.tally.statuses
    times = [kill["first_success_ms"] for kill in kills]
    line = {
        "agents": options.agents,
        "ready": agents.ready,
        "calls": agents.ok + failed,
        "ok": agents.ok,
        "failed": failed,
        "http_400": statuses[400],
        "http_404": statuses[404],
        "statuses": {str(k): v for k, v in sorted(statuses.items())},
        "kills": kills,
        "call_p50_ms": quantile(agents.tally.calls, 0.50),
        "call_p99_ms": quantile(agents.tally.calls, 0.99),
        "errors": dict(agents.failed.most_common(3)),
    }
    print(json.dumps(line), flush=True)
    good = bool(kills) and failed == 0 and agents.ready == options.agents and statuses[400] + statuses[404] == 0
    good = good and all(kill["in_flight"] > 0 for kill in kills)
    return 0 if good and all(ms is not None and ms <= 1000 for ms in times) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=10, help="seconds between kills")
    parser.add_argument("--hold-ms", type=int, default=300, help="how long the called tool takes")
    parser.add_argument("--pause", type=float, default=2.5, help="mean seconds between an agent's calls")
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("backend", nargs="+", help="command of the backend, after --")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
