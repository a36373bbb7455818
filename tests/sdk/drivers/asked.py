"""Servers that ask, with a Python client: several agents at once on each URL, one JSON line per cell and check.

A cell is `{"name", "url", "kind", "expect"}` in the list given by --cells. Where `expect` is `answered`, every
question must reach the agent whose call caused it, and no other: the tool gives back that agent's own secret.
Where it is `refused`, nobody may be asked anything, and the tool must fail or do without.
"""

import argparse
import asyncio
import json
import logging
import sys
import uuid

from answers import Answers
from clients import CLIENTS, MODES, said

# What makes a server ask: tool and arguments by the nonce. A question of `everything`'s form carries no nonce.
TOOLS = {
    "fastmcp": {
        "sampling": lambda nonce: ("ask", {"kind": "sampling", "text": nonce}),
        "elicitation": lambda nonce: ("ask", {"kind": "elicitation", "text": nonce}),
        "url": lambda nonce: ("ask", {"kind": "url", "text": nonce}),
        "roots": lambda nonce: ("ask", {"kind": "roots", "text": nonce}),
    },
    "everything": {
        "sampling": lambda nonce: ("trigger-sampling-request", {"prompt": nonce, "maxTokens": 10}),
        "elicitation": lambda nonce: ("trigger-elicitation-request", {}),
        "url": lambda nonce: ("trigger-url-elicitation", {"url": "https://example.org/", "message": nonce}),
        "roots": lambda nonce: ("get-roots-list", {}),
    },
}
TIMED_OUT = (408, -32001)  # the SDKs' own time limit, which is no refusal
CHECKS = ["sampling", "elicitation", "url", "roots"]
UNNAMED = {("everything", "elicitation"), ("everything", "roots"), ("fastmcp", "roots")}


class Agent:
    """One agent of a cell, going through the checks in step with the others."""

    def __init__(self, options, cell: dict, number: int):
        self.options, self.cell = options, cell
        self.answers = Answers(number)
        self.nonces: set[str] = set()
        self.spoken: str | None = None
        self.failures: dict[str, str] = {}

    async def go(self, barrier: asyncio.Barrier):
        make = CLIENTS[self.options.client]
        options = self.options
        client = make(self.cell["url"], options.transport, options.patience, self.answers, options.mode)
        try:
            async with asyncio.timeout(self.options.patience):
                await client.__aenter__()
        except BaseException as error:
            self.failures["handshake"] = said(error)
            client = None
        else:
            self.spoken = client.spoken
        for check in self.options.checks:
            await barrier.wait()
            if client is not None:
                await self.check(client, check)
        await barrier.wait()
        if client is not None:
            try:
                async with asyncio.timeout(self.options.patience):
                    await client.__aexit__(None, None, None)
            except BaseException as error:
                self.failures["close"] = said(error)

    async def check(self, client, check: str):
        expected = self.answered if self.cell["expect"] == "answered" else self.refused
        try:
            async with asyncio.timeout(self.options.patience):
                # Several at once, so that answers could also be mixed up within one agent.
                await asyncio.gather(*(expected(client, check) for _ in range(self.options.calls)))
        except Exception as error:
            self.failures[check] = said(error)

    async def call(self, client, check: str) -> tuple[str, str]:
        nonce = uuid.uuid4().hex
        self.nonces.add(nonce)
        tool, arguments = TOOLS[self.cell["kind"]][check](nonce)
        return nonce, await client.call(tool, arguments)

    async def answered(self, client, check: str):
        nonce, answer = await self.call(client, check)
        want = [self.answers.action] if check == "url" else [self.answers.secret]
        if check != "url" and (self.cell["kind"], check) not in UNNAMED:
            want.append(nonce)
        if missing := [text for text in want if text not in answer]:
            raise RuntimeError(f"answer without {missing}: {answer[:200]!r}")

    async def refused(self, client, check: str):
        try:
            _, answer = await self.call(client, check)
        except RuntimeError:
            return  # a result that says the tool failed
        except Exception as error:
            rpc = getattr(error, "error", None)
            if type(error).__name__ != "ToolError" and (rpc is None or rpc.code in TIMED_OUT):
                raise
            return  # a JSON-RPC error
        if "secret-" in answer:
            raise RuntimeError(f"somebody was asked: {answer[:200]!r}")

    def audit(self):
        """What this agent was asked, once everything is over."""
        for check in self.options.checks:
            problem = self.asked_wrongly(check, self.answers.asked[check])
            if problem:
                self.failures.setdefault(check, problem)

    def asked_wrongly(self, check: str, texts: list[str]) -> str | None:
        if self.cell["expect"] == "refused":
            return f"asked {len(texts)} times" if texts else None
        if "handshake" in self.failures:
            return None
        if check == "roots":  # a server may keep what it was told, or ask again
            return None if texts else "never asked"
        if len(texts) != self.options.calls:
            return f"asked {len(texts)} times for {self.options.calls} calls"
        if (self.cell["kind"], check) in UNNAMED:
            return None
        foreign = [text for text in texts if not any(nonce in text for nonce in self.nonces)]
        return f"asked what was never caused here: {foreign[0][:80]!r}" if foreign else None


async def run_cell(options, cell: dict) -> bool:
    agents = [Agent(options, cell, number) for number in range(options.agents)]
    barrier = asyncio.Barrier(options.agents)
    await asyncio.gather(*(agent.go(barrier) for agent in agents))
    for agent in agents:
        agent.audit()
    for check in ["handshake", *options.checks, "close"]:
        bad = [f"agent {n}: {a.failures[check]}" for n, a in enumerate(agents) if check in a.failures]
        line = {"cell": cell["name"], "check": check, "ok": not bad}
        if check == "handshake":
            line["spoken"] = sorted({a.spoken for a in agents if a.spoken})
        if bad:
            line["detail"] = f"{len(bad)} of {len(agents)}; " + " | ".join(bad[:3])
        print(json.dumps(line), flush=True)
    return not any(agent.failures for agent in agents)


async def run(options) -> int:
    # One after another: a cell must show what its own agents do to each other.
    passed = [await run_cell(options, cell) for cell in json.loads(options.cells)]
    return 0 if all(passed) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--cells", required=True, help="JSON list of cells")
    parser.add_argument("--mode", choices=MODES, help="of finding out the era; the SDK's own unless given")
    parser.add_argument("--checks", type=lambda text: text.split(","), default=CHECKS)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--calls", type=int, default=3, help="questions of a kind per agent, at once")
    parser.add_argument("--patience", type=float, default=25.0, help="seconds for any one step")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
