"""One face over three real Python clients: `mcp` 1.x, `mcp` 2.x and FastMCP.

Which of them is installed depends on the virtual environment, so every import stands in its own class.
Entering is the handshake, leaving is the close; both must happen in the same task (anyio's rule). Without a mode an
SDK does what it does by itself; what was agreed on is in `spoken`.
"""

import asyncio
import contextlib
import importlib

MODES = ["auto", "legacy", "modern"]
MODERN = "2026-07-28"


def text_of(result) -> str:
    """The text of a tool's result."""
    failed = getattr(result, "isError", None) or getattr(result, "is_error", None)
    text = "\n".join(getattr(part, "text", "") for part in result.content)
    if failed:
        raise RuntimeError(f"tool error: {text}")
    return text


class Mcp1:
    """`mcp` 1.x: ClientSession over a transport. It never cancels by itself, so we send the notification."""

    MODULES = ["mcp", "mcp.client.sse", "mcp.client.streamable_http"]

    def __init__(self, url: str, transport: str, timeout: float, answers=None, mode: str | None = None):
        for name in self.MODULES:  # takes seconds on a busy machine, which are not the handshake's
            importlib.import_module(name)
        self.url, self.transport, self.timeout = url, transport, timeout
        self.handlers = self._handlers(answers) if answers else {}
        self.mode = self._mode(mode)

    def _handlers(self, answers) -> dict:
        return answers.for_mcp()

    def _mode(self, mode: str | None) -> dict:
        if mode not in (None, "legacy"):
            raise ValueError(f"mcp 1.x has no mode {mode}")
        return {}

    @property
    def spoken(self) -> str:
        """The revision that was agreed on."""
        return self.hello.protocolVersion

    async def __aenter__(self):
        from datetime import timedelta

        from mcp import ClientSession

        async with contextlib.AsyncExitStack() as stack:
            streams = await stack.enter_async_context(self._connect())
            patience = timedelta(seconds=self.timeout)
            session = ClientSession(streams[0], streams[1], read_timeout_seconds=patience, **self.handlers)
            self.session = await stack.enter_async_context(session)
            self.hello = await self.session.initialize()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc):
        return await self._stack.__aexit__(*exc)

    def _connect(self):
        if self.transport == "sse":
            from mcp.client.sse import sse_client

            # By itself it gives up a connection after 5 s, which says something of a busy machine only.
            return sse_client(self.url, timeout=self.timeout)
        from mcp.client.streamable_http import streamablehttp_client

        return streamablehttp_client(self.url)

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def call(self, name: str, arguments: dict, progress=None) -> str:
        return text_of(await self.session.call_tool(name, arguments, progress_callback=progress))

    async def cancelled_call(self, name: str, arguments: dict, after: float) -> str:
        from mcp import types

        request = self.session._request_id  # the id the next request takes
        call = asyncio.create_task(self.call(name, arguments))
        await asyncio.sleep(after)
        params = types.CancelledNotificationParams(requestId=request, reason="test")
        note = types.CancelledNotification(method="notifications/cancelled", params=params)
        await self.session.send_notification(types.ClientNotification(note))
        return await ended(call, grace=0.3)


class Mcp2(Mcp1):
    """`mcp` 2.x: `Client`, which probes `server/discover` first and cancels when its caller is cancelled."""

    def _mode(self, mode: str | None) -> dict:
        # Told a revision, it does not ask for it: the first request is already in it.
        return {} if mode is None else {"mode": MODERN if mode == "modern" else mode}

    @property
    def spoken(self) -> str:
        return self.session.protocol_version

    async def __aenter__(self):
        from mcp import Client

        patience = {"read_timeout_seconds": self.timeout}
        self.session = Client(self._connect(), **patience, **self.handlers, **self.mode)
        await self.session.__aenter__()
        return self

    async def __aexit__(self, *exc):
        return await self.session.__aexit__(*exc)

    def _connect(self):
        if self.transport == "sse":
            from mcp.client.sse import sse_client

            # By itself it gives up a connection after 5 s, which says something of a busy machine only.
            return sse_client(self.url, timeout=self.timeout)
        from mcp.client.streamable_http import streamable_http_client

        return streamable_http_client(self.url)

    async def cancelled_call(self, name: str, arguments: dict, after: float) -> str:
        call = asyncio.create_task(self.call(name, arguments))
        await asyncio.sleep(after)
        return await ended(call, grace=0)


class Fast(Mcp2):
    """FastMCP's own client."""

    MODULES = ["fastmcp", "fastmcp.client.transports", "fastmcp.client.elicitation"]

    def _handlers(self, answers) -> dict:
        return answers.for_fastmcp()

    async def __aenter__(self):
        from fastmcp import Client
        from fastmcp.client.transports import SSETransport, StreamableHttpTransport

        kind = SSETransport if self.transport == "sse" else StreamableHttpTransport
        patience = {"timeout": self.timeout, "init_timeout": self.timeout}
        self.session = Client(kind(self.url), **patience, **self.handlers, **self.mode)
        await self.session.__aenter__()
        return self

    async def tools(self) -> list[str]:
        return [tool.name for tool in await self.session.list_tools()]

    async def call(self, name: str, arguments: dict, progress=None) -> str:
        return text_of(await self.session.call_tool(name, arguments, progress_handler=progress))


async def ended(call: asyncio.Task, grace: float) -> str:
    """Cancels what is left of a call and says how it ended; an answer is not an end we accept."""
    if grace:
        await asyncio.wait([call], timeout=grace)
    call.cancel()
    try:
        answer = await call
    except asyncio.CancelledError:
        return "cancelled"
    except Exception as error:  # the server's own answer to a cancelled call is an error in some SDKs
        return f"error: {error}"
    raise RuntimeError(f"a cancelled call was answered: {answer}")


CLIENTS = {"mcp1": Mcp1, "mcp2": Mcp2, "fastmcp": Fast}


def said(error: BaseException) -> str:
    """One line for an error, with what hides inside exception groups."""
    inner = getattr(error, "exceptions", None)
    if inner:
        return "; ".join(said(e) for e in inner)
    rpc = getattr(error, "error", None)  # a JSON-RPC error says more than its message
    more = f" [{getattr(rpc, 'code', '')} {getattr(rpc, 'data', '')}]" if rpc is not None else ""
    return f"{type(error).__name__}: {error}{more}".replace("\n", " ")[:500]
