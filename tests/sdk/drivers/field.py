"""The laboratory's Python clients: one process goes to many servers, some at a time, and reports one JSON line of each.

Targets come as JSON lines on standard input: `id`, `transport` (`http`, `sse` or `stdio`), `url` or `command`, `ask` (a
list that is asked for besides) and `patience`. At each a session is opened, its tools are listed, four calls run at the
same time and one after them, each with a nonce that must come back, and the session is closed.
"""

import argparse
import asyncio
import json
import logging
import sys
import time

from clients import CLIENTS, said

TOOLS = ["echo", "echo", "read", "special"]


class Programs:
    """A client that can start a program, too."""

    def _connect(self):
        if self.transport != "stdio":
            return super()._connect()
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client

        return stdio_client(StdioServerParameters(command=self.url[0], args=self.url[1:]), errlog=sys.stderr)


class Visit:
    """One session at one server."""

    def __init__(self, client: str, target: dict):
        self.kind = type("Visitor", (Programs, CLIENTS[client]), {})
        self.target, self.patience = target, target["patience"]
        self.report = {"id": target["id"], "handshake": "not done in time", "list": None, "calls": [], "close": None}
        self.began = time.monotonic()

    async def go(self):
        # A client that does not end when it is cancelled is left behind, so that the others go on.
        task = asyncio.create_task(self.visit())
        await asyncio.wait([task], timeout=4.5 * self.patience)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=2)
            self.report["close"] = "not done in time"
        elif not task.cancelled():
            task.exception()
        self.report["ms"] = round((time.monotonic() - self.began) * 1000)
        # Half of a pair is no text for whoever reads this.
        text = json.dumps(self.report, ensure_ascii=False)
        print(json.dumps(json.loads(text.encode("utf-8", "replace"))), flush=True)

    async def visit(self):
        where = self.target.get("command") or self.target["url"]
        client = self.kind(where, self.target["transport"], self.patience)
        try:
            async with asyncio.timeout(self.patience):
                await client.__aenter__()
        except BaseException as error:
            self.report["handshake"] = said(error)
            return
        self.report["handshake"] = None
        try:
            await self.work(client)
        finally:
            try:
                async with asyncio.timeout(self.patience):
                    await client.__aexit__(None, None, None)
            except BaseException as error:
                self.report["close"] = said(error)

    async def work(self, client):
        self.report["list"] = await self.one(client.tools())
        # What a transport takes along when it breaks is told, too.
        self.report["calls"] = [self.told(tool, number) | {"error": "not done"} for number, tool in enumerate(TOOLS)]
        self.report["calls"].append(self.told("echo", len(TOOLS)) | {"error": "not done"})
        await asyncio.gather(*(self.call(client, tool, number) for number, tool in enumerate(TOOLS)))
        await self.call(client, "echo", len(TOOLS))
        if self.target.get("ask") == "resources/list":
            self.report["ask"] = await self.one(client.session.list_resources())

    def told(self, tool: str, number: int) -> dict:
        return {"tool": tool, "nonce": f"{self.target['id']}/{number}"}

    async def call(self, client, tool: str, number: int):
        told = self.told(tool, number)
        answer = await self.one(client.call(tool, {"nonce": told["nonce"]}))
        if "ok" in answer:
            answer = {"ok": True} if answer["ok"] == told["nonce"] else {"wrong": str(answer["ok"])[:200]}
        self.report["calls"][number] = told | answer

    async def one(self, coroutine) -> dict:
        try:
            async with asyncio.timeout(self.patience):
                answer = await coroutine
            return {"ok": answer if isinstance(answer, str | list) else True}
        except Exception as error:
            return {"error": said(error)}
        except asyncio.CancelledError as error:
            # A transport that breaks cancels everybody who waits for it, and so us.
            asyncio.current_task().uncancel()
            return {"error": said(error)}


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    targets = [json.loads(line) for line in sys.stdin if line.strip()]
    waiting = iter(targets)

    async def worker():
        for target in waiting:
            await Visit(options.client, target).go()

    await asyncio.gather(*(worker() for _ in range(options.at_once)))


if __name__ == "__main__":
    asyncio.run(main())
