"""Servers that keep state per session, with a Python client: several agents at once on each URL.

Where a cell expects `isolated`, no agent may see what another one left in its session, be it a value or a tool that
was made visible; so each must have come to a session, whatever it asked for first. Where it expects `demoted`, agents
begin by sharing; the first sign of state (a tool list that changes after a call) must give every agent that comes later
a session of its own. Where it expects `fresh`, agents insist on having no session: each call finds a session as nobody
left it.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
import uuid

from clients import CLIENTS, MODERN, MODES, said


class Cell:
    """One URL with its agents; `failures` by check."""

    def __init__(self, options, cell: dict):
        self.options, self.cell = options, cell
        self.failures: dict[str, str] = {}

    def client(self):
        options = self.options
        make = CLIENTS[options.client]
        return make(self.cell["url"], options.transport, options.patience, mode=options.mode)

    async def run(self) -> bool:
        expect = self.cell["expect"]
        await self.check(expect, getattr(self, expect)())
        return not self.failures

    async def check(self, name: str, body):
        try:
            await body
        except BaseException as error:
            self.failures[name] = said(error)
        line = {"cell": self.cell["name"], "check": name, "ok": name not in self.failures}
        if name in self.failures:
            line["detail"] = self.failures[name]
        print(json.dumps(line), flush=True)

    async def isolated(self):
        agents = [Agent(number) for number in range(self.options.agents)]
        barrier = asyncio.Barrier(len(agents))
        async with asyncio.timeout(self.options.patience), asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(self.one(agent, barrier))

    async def one(self, agent: "Agent", barrier: asyncio.Barrier):
        async with self.client() as client:
            await barrier.wait()
            if client.spoken == MODERN:
                raise RuntimeError(f"agent {agent.number} has no session that could be its own")
            await client.call("remember", {"value": agent.secret})
            await barrier.wait()
            for _ in range(5):
                if (answer := await client.call("recall", {})) != agent.secret:
                    raise RuntimeError(f"agent {agent.number} left {agent.secret}, found {answer[:80]!r}")
            if agent.number == 0:
                await client.call("unlock", {})
            await barrier.wait()
            visible = "vault" in await client.tools()
            if visible != (agent.number == 0):
                raise RuntimeError(f"agent {agent.number}: the tool of agent 0 is visible: {visible}")
            if agent.number != 0:
                with contextlib.suppress(Exception):
                    raise Opened(await client.call("vault", {}))
            await barrier.wait()

    async def fresh(self):
        agents = [Agent(number) for number in range(self.options.agents)]
        barrier = asyncio.Barrier(len(agents))
        async with asyncio.timeout(self.options.patience), asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(self.stranger(agent, barrier))

    async def stranger(self, agent: "Agent", barrier: asyncio.Barrier):
        async with self.client() as client:
            await client.call("remember", {"value": agent.secret})
            await client.call("unlock", {})
            await barrier.wait()
            if (answer := await client.call("recall", {})) != "None":
                raise RuntimeError(f"agent {agent.number} found {answer[:80]!r}")
            if "vault" in await client.tools():
                raise RuntimeError(f"agent {agent.number} sees the tool of another session")
            await barrier.wait()

    async def demoted(self):
        async with self.client() as early:
            await early.call("remember", {"value": "early"})
            await early.call("unlock", {})
            # The evidence travels from the server to the gateway on its own; the next agents may be too early.
            limit = time.monotonic() + self.options.patience / 2
            while True:
                try:
                    # In a task of its own: what is cancelled there must not reach the early agent's scopes.
                    await asyncio.create_task(self.isolated())
                    return
                except BaseException:
                    if time.monotonic() > limit:
                        raise
                await asyncio.sleep(0.2)


class Agent:
    """What one agent leaves in its session."""

    def __init__(self, number: int):
        self.number = number
        self.secret = f"secret-{number}-{uuid.uuid4().hex}"


class Opened(BaseException):
    """A tool answered that must not be there."""


async def run(options) -> int:
    passed = [await Cell(options, cell).run() for cell in json.loads(options.cells)]
    return 0 if all(passed) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--cells", required=True, help="JSON list of cells")
    parser.add_argument("--mode", choices=MODES, help="of finding out the era; the SDK's own unless given")
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--patience", type=float, default=25.0, help="seconds for one cell")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
