"""A real FastMCP server for the gate: tools with nonces, progress, state and questions to the client.

It runs on FastMCP 2.14 and 4.1.
"""

import argparse
import asyncio
import collections
import uuid

from fastmcp import Context, FastMCP
from serving import seen, serve

READ_ONLY = {"readOnlyHint": True, "openWorldHint": False}
WRITES = {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": False, "openWorldHint": False}

server = FastMCP("mcpool-fastmcp")
added: collections.Counter = collections.Counter()


@server.tool(annotations=READ_ONLY)
async def echo(nonce: str) -> str:
    """Gives back the nonce."""
    return nonce


@server.tool(annotations=READ_ONLY)
async def slow(ms: int, nonce: str = "slept") -> str:
    """Answers after a while; counts itself while it runs, so that a cancellation can be seen."""
    seen["slow_started"] += 1
    try:
        await asyncio.sleep(min(ms, 60_000) / 1000)
    except asyncio.CancelledError:
        seen["slow_cancelled"] += 1
        raise
    seen["slow_finished"] += 1
    return nonce


@server.tool(annotations=READ_ONLY)
async def progress(steps: int, ctx: Context, nonce: str = "done", interval_ms: int = 20) -> str:
    """Reports its progress, then answers."""
    for step in range(1, min(steps, 1000) + 1):
        await asyncio.sleep(interval_ms / 1000)
        await ctx.report_progress(step, steps)
    return nonce


@server.tool(annotations=READ_ONLY)
async def big(bytes: int) -> str:
    """Answers a text of so many bytes."""
    return "x" * min(bytes, 16 << 20)


@server.tool(annotations=WRITES)
async def add(nonce: str) -> str:
    """Counts its executions by nonce; not safe to repeat."""
    added[nonce] += 1
    return f"{nonce} {added[nonce]}"


@server.tool(annotations=WRITES)
async def ask(kind: str, ctx: Context, text: str = "well?") -> str:
    """Asks the client through elicitation (form or url), sampling or roots and gives back its answer."""
    if kind == "elicitation":
        answer = await ctx.elicit(text, response_type=str)
        return f"{answer.action} {getattr(answer, 'data', '')}"
    if kind == "url":
        answer = await ctx.session.elicit_url(text, "https://example.org/", uuid.uuid4().hex)
        return answer.action
    if kind == "roots":
        return " ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)
    answer = await ctx.session.create_message(messages=[user_says(text)], max_tokens=10)
    return getattr(answer.content, "text", str(answer.content))


def user_says(text: str):
    from mcp.types import SamplingMessage, TextContent

    return SamplingMessage(role="user", content=TextContent(type="text", text=text))


if hasattr(Context, "enable_components"):  # FastMCP 4 keeps state and visibility by session

    @server.tool(annotations=WRITES)
    async def remember(value: str, ctx: Context) -> str:
        """Keeps a value in the session."""
        await ctx.set_state("value", value)
        return "remembered"

    @server.tool(annotations=READ_ONLY)
    async def recall(ctx: Context) -> str:
        """What the session keeps."""
        return str(await ctx.get_state("value"))

    @server.tool(annotations=WRITES)
    async def unlock(ctx: Context) -> str:
        """Shows the session a tool that it could not see before."""
        await ctx.enable_components(names={"vault"})
        return "unlocked"

    @server.tool(annotations=READ_ONLY)
    async def vault() -> str:
        """Only for sessions that unlocked it."""
        return "gold"

    server.disable(names={"vault"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--path", default="/sse/")
    options = parser.parse_args()
    app = server.http_app(path=options.path, transport=options.transport)
    serve(app, options.port, counts)


def counts() -> dict:
    return {"added": len(added), "added_twice": sum(1 for n in added.values() if n > 1)}


if __name__ == "__main__":
    main()
