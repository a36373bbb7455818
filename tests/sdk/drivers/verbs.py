"""An operator's verbs on a running gateway under load, with the real `mcp` 1.x client.

The driver owns the backend (everything after `--` is its command; `{port}` in it stands for --port) and gives the
words with the `mcpool` program itself: `pause`, then the backend is killed and started anew, `resume`, and then
`reconnect`. Executors initialise once and call a tool that is not marked read-only in a loop, so nothing is repeated
behind their back. Some of them may have a session of their own (--own), which must be the same afterwards. Prints one
JSON object.
"""

import argparse
import asyncio
import collections
import json
import logging
import os
import signal
import sys
import time
import uuid

from clients import said
from restarts import CountedMcp1, port_open
from scenario import Tally, quantile


class OwnMcp1(CountedMcp1):
    """The same client, which can be asked for its roots: the gateway gives it a session of its own."""

    async def __aenter__(self):
        from mcp import types

        async def roots(_context):
            return types.ListRootsResult(roots=[])

        self.handlers = {"list_roots_callback": roots}
        return await super().__aenter__()


class Executors:
    """All executors: how many calls there were, how many failed, and why."""

    def __init__(self, options):
        self.options = options
        self.tally = Tally()
        self.ok = 0
        self.ready = 0
        self.failed: collections.Counter = collections.Counter()
        self.stop = asyncio.Event()

    async def one(self, number: int):
        kind = OwnMcp1 if number < self.options.own else CountedMcp1
        client = kind(self.options.url, self.options.transport, self.options.patience, self.tally)
        try:
            await client.__aenter__()
        except BaseException as error:
            self.failed["handshake: " + said(error)] += 1
            return
        self.ready += 1
        while not self.stop.is_set():
            await self.call(client)
            await asyncio.sleep(self.options.pause)
        try:
            async with asyncio.timeout(5):
                await client.__aexit__(None, None, None)
        except BaseException:
            pass  # closing is the matrix's business

    async def call(self, client):
        nonce = uuid.uuid4().hex
        everything = self.options.kind == "everything"
        tool, arguments = ("echo", {"message": nonce}) if everything else ("add", {"nonce": nonce})
        began = time.monotonic()
        try:
            answer = await client.call(tool, arguments)
            if nonce not in answer:
                raise RuntimeError(f"asked with {nonce}, answered {answer[:80]!r}")
            self.ok += 1
            self.tally.calls.append(time.monotonic() - began)
        except BaseException as error:
            self.failed[said(error)] += 1

    async def more(self, calls: int):
        wanted = self.ok + calls
        end = time.monotonic() + self.options.patience
        while self.ok < wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"no {calls} more calls within {self.options.patience} s: {self.failed}")
            await asyncio.sleep(0.05)


async def mcpool(options, *words: str) -> dict:
    """What the program says as JSON; its exit status must say that it is done."""
    process = await asyncio.create_subprocess_exec(
        options.mcpool, *words, "--admin", options.admin, "--json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"mcpool {' '.join(words)}: {process.returncode}: {out.decode()} {err.decode()}")
    return json.loads(out)


async def start(options) -> asyncio.subprocess.Process:
    words = [word.replace("{port}", str(options.port)) for word in options.backend]
    env = {**os.environ, "PORT": str(options.port)}
    quiet = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(*words, stdout=quiet, stderr=quiet, env=env)


async def sessions(options) -> dict[str, set[int]]:
    """The epochs of the sessions that are ready, by mode."""
    found: dict[str, set[int]] = collections.defaultdict(set)
    for session in (await mcpool(options, "status", options.name))["session_list"]:
        if session["state"] == "ready":
            found[session["mode"]].add(session["session"])
    return found


async def run(options) -> int:
    backend = await start(options)
    try:
        await port_open(options.port, 30)
        executors = Executors(options)
        tasks = [asyncio.create_task(executors.one(number)) for number in range(options.executors)]
        while executors.ready < options.executors and not executors.failed:
            await asyncio.sleep(0.05)
        await executors.more(options.executors)
        report: dict = {}
        if options.restart:
            paused = await mcpool(options, "pause", options.name, "--wait", "60s")
            backend.send_signal(signal.SIGKILL)
            await backend.wait()
            backend = await start(options)
            opened = await port_open(options.port, 30)
            resumed = await mcpool(options, "resume", options.name, "--wait", "60s")
            await executors.more(1)
            report["first_success_ms"] = round((time.monotonic() - opened) * 1000)
            report["paused"] = {key: paused[key] for key in ("calls_in_flight", "waiting_calls", "took_ms")}
            report["resumed"] = {key: resumed[key] for key in ("waiting_calls", "took_ms")}
            await executors.more(options.executors)
        before = await sessions(options)
        done = await mcpool(options, "reconnect", options.name, "--wait", "120s")
        await executors.more(options.executors)
        after = await sessions(options)
        report["reconnect"] = {"sessions": done["reconnect"]["done"], "took_ms": done["took_ms"]}
        report["own_untouched"] = len(before["pinned"]) == options.own and before["pinned"] == after["pinned"]
        shared = lambda found: set().union(*(epochs for mode, epochs in found.items() if mode != "pinned"))
        report["all_new"] = bool(shared(before)) and not shared(before) & shared(after)
        executors.stop.set()
        await asyncio.wait(tasks, timeout=options.patience)
        return said_and_done(options, executors, report)
    finally:
        if backend.returncode is None:
            backend.kill()
            await backend.wait()


def said_and_done(options, executors: Executors, report: dict) -> int:
    failed = sum(executors.failed.values())
    statuses = executors.tally.statuses
    refused = {str(code): count for code, count in sorted(statuses.items()) if code >= 400}
    line = {
        "executors": executors.ready,
        "calls": executors.ok + failed,
        "failed": failed,
        "http_4xx_5xx": refused,
        "call_p50_ms": quantile(executors.tally.calls, 0.50),
        "call_p99_ms": quantile(executors.tally.calls, 0.99),
        **report,
        "errors": dict(executors.failed.most_common(3)),
    }
    print(json.dumps(line), flush=True)
    good = failed == 0 and not refused and executors.ready == options.executors
    return 0 if good and report["own_untouched"] and report["all_new"] else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--mcpool", required=True, help="the program")
    parser.add_argument("--admin", required=True)
    parser.add_argument("--name", required=True, help="the backend's name")
    parser.add_argument("--kind", choices=["fastmcp", "everything"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--executors", type=int, default=200)
    parser.add_argument("--own", type=int, default=0, help="how many of them have a session of their own")
    parser.add_argument("--restart", action="store_true", help="also kill and restart the backend in a pause")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between an executor's calls")
    parser.add_argument("--patience", type=float, default=90.0)
    parser.add_argument("backend", nargs="+", help="command of the backend, after --")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
