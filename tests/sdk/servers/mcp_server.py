"""A real server over the official Python SDK, `mcp` 1.x or 2.x: tools with nonces, progress, and a question.

With 2.x it speaks both eras, as that SDK does by itself; each call is counted by the era it came in.
"""

import argparse
import asyncio
from typing import Annotated

from mcp import types
from pydantic import BaseModel
from serving import seen, serve

try:
    from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve

    SDK = 2
except ImportError:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer

    SDK = 1

MODERN = "2026-07-28"
READ_ONLY = types.ToolAnnotations.model_validate({"readOnlyHint": True, "openWorldHint": False})

server = MCPServer("mcpool-mcp")


def count(ctx: Context) -> None:
    """Counts a call by the era it came in."""
    version = getattr(ctx, "protocol_version", None) if SDK == 2 else None
    seen["modern" if version is not None and version >= MODERN else "legacy"] += 1


@server.tool(annotations=READ_ONLY)
async def echo(nonce: str, ctx: Context) -> str:
    """Gives back the nonce."""
    count(ctx)
    return nonce


@server.tool(annotations=READ_ONLY)
async def slow(ms: int, ctx: Context, nonce: str = "slept") -> str:
    """Answers after a while; counts itself while it runs, so that a cancellation can be seen."""
    count(ctx)
    seen["slow_started"] += 1
    try:
        await asyncio.sleep(min(ms, 60_000) / 1000)
    except asyncio.CancelledError:
        seen["slow_cancelled"] += 1
        raise
    return nonce


@server.tool(annotations=READ_ONLY)
async def progress(steps: int, ctx: Context, nonce: str = "done", interval_ms: int = 20) -> str:
    """Reports its progress, then answers."""
    count(ctx)
    for step in range(1, min(steps, 1000) + 1):
        await asyncio.sleep(interval_ms / 1000)
        await ctx.report_progress(step, steps)
    return nonce


class Answer(BaseModel):
    """What is asked for."""

    value: str


if SDK == 2:

    async def question(text: str) -> Elicit[Answer]:
        """Asked in the middle of the call, or as what the call still needs: the SDK knows which."""
        return Elicit(text, Answer)

    @server.tool(annotations=READ_ONLY)
    async def ask(
        kind: str, ctx: Context, answer: Annotated[Answer, Resolve(question)], text: str = "well?"
    ) -> str:
        """Asks the client by a form and gives back its answer."""
        count(ctx)
        return f"accept {answer.value}"

else:

    @server.tool(annotations=READ_ONLY)
    async def ask(kind: str, ctx: Context, text: str = "well?") -> str:
        """Asks the client by a form and gives back its answer."""
        count(ctx)
        answer = await ctx.elicit(text, Answer)
        return f"{answer.action} {getattr(getattr(answer, 'data', None), 'value', '')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    options = parser.parse_args()
    app = server.sse_app() if options.transport == "sse" else server.streamable_http_app()
    serve(app, options.port)


if __name__ == "__main__":
    main()
