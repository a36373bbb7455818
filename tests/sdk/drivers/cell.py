"""Cells of the matrix with a Python client: some agents at once against one URL, one JSON line per check.

Agents go through the checks in step (a barrier between them), so that every step is a herd. After the last
call the line `{"hold": true}` is printed and a line on standard input awaited (with --hold): whoever runs us
looks at the gateway's session counts while all agents are still open. Instead of one URL there may be a list of
`{"name", "url", "kind"}` in --cells; then each line names its cell, and the cells follow each other.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
import uuid

from clients import CLIENTS, MODES, said

TOOLS = {
    "fastmcp": {
        "echo": lambda nonce: ("echo", {"nonce": nonce}, nonce),
        "progress": ("progress", {"steps": 5, "nonce": "p", "interval_ms": 20}),
        "slow": ("slow", {"ms": 20_000}),
    },
    "testkit": {
        "echo": lambda nonce: ("echo", {"nonce": nonce}, nonce),
        "progress": ("progress", {"steps": 5, "nonce": "p", "interval_ms": 20}),
        "slow": ("sleep", {"ms": 20_000}),
    },
    "everything": {
        "echo": lambda nonce: ("echo", {"message": nonce}, nonce),
        "progress": ("trigger-long-running-operation", {"duration": 0.2, "steps": 5}),
        "slow": ("trigger-long-running-operation", {"duration": 20, "steps": 1}),
    },
}
STEPS = ["list", "calls", "progress", "cancel", "after-cancel"]


class Agent:
    """One client going through the steps; `failures` holds what went wrong, by step."""

    def __init__(self, options, number: int):
        self.options, self.number = options, number
        self.tools = TOOLS[options.kind]
        self.failures: dict[str, str] = {}
        self.spoken: str | None = None

    async def go(self, barrier: asyncio.Barrier, done: asyncio.Event):
        options = self.options
        make = CLIENTS[options.client]
        client = make(options.url, options.transport, options.patience, mode=options.mode)
        try:
            async with asyncio.timeout(options.patience):
                await client.__aenter__()
            self.spoken = client.spoken
        except BaseException as error:
            self.failures["handshake"] = said(error)
            client = None
        await barrier.wait()
        for step in STEPS:
            if client is not None:
                await self.step(client, step)
            await barrier.wait()
        await done.wait()
        if client is not None:
            try:
                async with asyncio.timeout(self.options.patience):
                    await client.__aexit__(None, None, None)
            except BaseException as error:
                self.failures["close"] = said(error)

    async def step(self, client, step: str):
        try:
            async with asyncio.timeout(self.options.patience):
                await getattr(self, step.replace("-", "_"))(client)
        except Exception as error:
            self.failures[step] = said(error)

    async def list(self, client):
        names = await client.tools()
        wanted = self.tools["slow"][0]
        if wanted not in names:
            raise RuntimeError(f"no tool {wanted} in {names}")

    async def calls(self, client):
        async def one():
            nonce = uuid.uuid4().hex
            tool, arguments, want = self.tools["echo"](nonce)
            answer = await client.call(tool, arguments)
            if want not in answer:
                raise RuntimeError(f"asked with {want}, answered {answer[:80]!r}")

        await asyncio.gather(*(one() for _ in range(self.options.calls)))

    async def progress(self, client):
        seen = []

        async def note(progress, total=None, message=None):
            seen.append(progress)

        tool, arguments = self.tools["progress"]
        await client.call(tool, arguments, progress=note)
        for _ in range(20):  # a report may be dispatched just after the answer
            if len(seen) >= 3:
                break
            await asyncio.sleep(0.05)
        if not seen or seen != sorted(seen) or seen[-1] > 5:
            raise RuntimeError(f"progress seen: {seen}")

    async def cancel(self, client):
        tool, arguments = self.tools["slow"]
        await client.cancelled_call(tool, arguments, after=0.3)

    async def after_cancel(self, client):
        await self.calls(client)


def report(check: str, agents: list[Agent], began: float):
    bad = [f"agent {a.number}: {a.failures[check]}" for a in agents if check in a.failures]
    line = {"check": check, "ok": not bad, "ms": round((time.monotonic() - began) * 1000)}
    line |= {"cell": agents[0].options.name} if agents[0].options.name else {}
    if check == "handshake":
        line["spoken"] = sorted({a.spoken for a in agents if a.spoken})
    if bad:
        line["detail"] = f"{len(bad)} of {len(agents)}; " + " | ".join(bad[:3])
    print(json.dumps(line), flush=True)


async def run(options) -> int:
    if not options.cells:
        return await run_cell(options)
    # One after another: a cell must show what its own agents do to each other.
    cells = json.loads(options.cells)
    ended = [await run_cell(argparse.Namespace(**(vars(options) | cell))) for cell in cells]
    return max(ended)


async def run_cell(options) -> int:
    agents = [Agent(options, number) for number in range(options.agents)]
    barrier = asyncio.Barrier(options.agents + 1)
    done = asyncio.Event()
    began = time.monotonic()
    tasks = [asyncio.create_task(agent.go(barrier, done)) for agent in agents]
    for check in ["handshake", *STEPS]:
        await barrier.wait()
        report(check, agents, began)
        began = time.monotonic()
    if options.hold:
        print(json.dumps({"hold": True}), flush=True)
        line = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await asyncio.wait_for(line, 30)
    began = time.monotonic()
    done.set()
    await asyncio.wait(tasks, timeout=options.patience)
    for task, agent in zip(tasks, agents):
        if not task.done():
            agent.failures["close"] = "not closed in time"
    report("close", agents, began)
    return 1 if any(agent.failures for agent in agents) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url")
    where.add_argument("--cells", help="JSON list of cells")
    parser.add_argument("--name", help="of the cell, in each line")
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--mode", choices=MODES, help="of finding out the era; the SDK's own unless given")
    parser.add_argument("--kind", choices=sorted(TOOLS))
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--patience", type=float, default=25.0, help="seconds for any one step")
    parser.add_argument("--hold", action="store_true")
    logging.disable(logging.WARNING)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
