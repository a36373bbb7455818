"""The laboratory's HTTP server: every dialect at `/WORLD/NAME/mcp` or `/WORLD/NAME/sse`, all in one process.

A world is who comes (a client directly, or the gateway in one mode); each has sessions and a ledger of its own, so that
nobody's run changes what another sees. `GET /ledger` tells what was asked of each and how often each nonce was executed.
"""

import argparse
import asyncio
import itertools
import json
import sys

import rules
import wire
from streams import open_get_stream, open_sse, polled
from worlds import Session, World


class Server:
    """All worlds of all dialects."""

    def __init__(self, dialects: list[dict]):
        self.dialects = {dialect["name"]: dialect for dialect in dialects}
        self.worlds: dict[tuple[str, str], World] = {}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        try:
            while True:
                request = await wire.read(reader)
                if request is None or not await self.serve(request, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            writer.close()

    async def serve(self, request: wire.Request, reader, writer) -> bool:
        """Answers one request; whether the connection goes on."""
        if request.path == "/ledger":
            return await self.ledger(writer)
        parts = request.path.split("/")
        if len(parts) < 4 or parts[2] not in self.dialects:
            return await wire.whole(writer, {}, 404, "no such dialect")
        key = (parts[1], parts[2])
        world = self.worlds.setdefault(key, World(self.dialects[parts[2]], f"/{parts[1]}/{parts[2]}"))
        exchange = Exchange(world, request, reader, writer)
        return await exchange.serve("/".join(parts[3:]))

    async def ledger(self, writer) -> bool:
        told = {"/".join(key): world.book.report() for key, world in self.worlds.items()}
        return await wire.whole(writer, {"connection": "close"}, 200, json.dumps(told), "application/json")


class Exchange:
    """One request in its world."""

    def __init__(self, world: World, request: wire.Request, reader, writer):
        self.world, self.request, self.reader, self.writer = world, request, reader, writer
        self.dialect = world.dialect

    async def serve(self, place: str) -> bool:
        request, dialect = self.request, self.dialect
        if redirect := dialect.get("slash", {}).get(request.method):
            if not request.path.endswith("/"):
                target = request.path + "/" + (f"?{request.query}" if request.query else "")
                if dialect["slash"].get("absolute"):
                    target = f"http://{request.headers.get('host')}{target}"
                self.world.book.saw(f"{request.method} {redirect}")
                return await wire.whole(self.writer, {}, redirect, "", headers=[("Location", target)])
        if place.rstrip("/") == "sse" and request.method == "GET":
            return await open_sse(self)
        if place.rstrip("/") in ("sse", "mcp") and request.method == "GET":
            return await open_get_stream(self)
        if request.method == "DELETE":
            return await self.delete()
        if request.method != "POST":
            return await wire.whole(self.writer, {}, 405, "", headers=[("Allow", "GET, POST, DELETE")])
        if place.rstrip("/") == "sse" and "session_id=" not in request.query:
            return await self.posted_to_stream()
        try:
            text = request.body.decode()
            message = json.loads(text)
        except ValueError:
            return await self.refused(400, -32700, "Parse error")
        if not isinstance(message, dict):
            return await self.refused(400, -32600, "Invalid request: no batches here")
        return await self.message(message, text, place)

    def rule(self, on: str, kind: str, session: Session | None) -> dict:
        count = self.world.book.saw(on)
        mine = session.saw(on) if session else 0
        return rules.merged(self.dialect, on, kind, count, self.request.headers, mine)

    async def refused(self, status: int, code: int, text: str) -> bool:
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}
        return await wire.whole(self.writer, {}, status, json.dumps(error), "application/json")

    async def posted_to_stream(self) -> bool:
        """A POST to the URL of an HTTP+SSE stream: clients that try Streamable HTTP first do this."""
        rule = self.rule("POST", "http", None)
        if rule.get("takes_place"):
            return await open_sse(self)
        body, kind = rule.get("body", "Method Not Allowed"), rule.get("type", "text/plain")
        return await wire.whole(self.writer, rule, rule.get("status", 405), body, kind)

    async def delete(self) -> bool:
        session = self.world.sessions.get(self.request.headers.get("mcp-session-id", ""))
        rule = self.rule("DELETE", "http", session)
        if rule.get("hang"):
            return await self.silence()
        if "status" not in rule and session is None:
            return await self.refused(404, -32001, "Session not found")
        if session:
            self.world.sessions.pop(session.id, None)
            session.ended.set()
        return await wire.whole(self.writer, rule, rule.get("status", 200), rule.get("body", ""), rule.get("type", ""))

    async def silence(self) -> bool:
        await self.reader.read(1)
        return False

    async def message(self, message: dict, text: str, place: str) -> bool:
        on, kind = rules.name_of(message), rules.kind_of(message)
        over_sse = self.dialect["transport"] == "sse"
        session, refused = self.world.find(self.request, on, kind, over_sse)
        rule = self.rule(on, kind, session)
        if refused and over_sse and refused.get("early"):
            session.send(self.event(refused["body"], rule))
            return await wire.whole(self.writer, rule, 202, "Accepted")
        if refused and "status" not in rule and not rule.get("hang"):
            return await self.lost(refused, rule)
        if on == "initialize" and self.dialect.get("era") == "modern":
            rule = {"status": 400, "error": UNSUPPORTED} | rule
        if kind == "response" and session:
            session.replied(message)
        if rule.get("delay"):
            await asyncio.sleep(rule["delay"])
        if rule.get("hang"):
            return await self.silence()
        if rule.get("cut"):
            return False
        if kind == "request" and on.startswith("tools/call") and rule.get("run", True) and not refused:
            self.world.ran(message, session)
        if over_sse:
            return await self.over_sse(session, message, text, rule)
        if kind != "request":
            return await self.acknowledge(rule)
        return await self.over_http(session, message, text, rule)

    async def lost(self, refused: dict, rule: dict) -> bool:
        body, kind = refused["body"], refused.get("type", "application/json")
        return await wire.whole(self.writer, rule, refused["status"], body, kind)

    def extra(self, rule: dict) -> list[tuple[str, str]]:
        words = {"n": str(next(COUNTER)), "path": self.request.path, "base": self.world.base}
        return [(name, rules.fill(value, words)) for name, value in rule.get("headers", {}).items()]

    async def acknowledge(self, rule: dict) -> bool:
        headers = self.extra(rule) + self.world.cookie(self.request)
        status, body = rule.get("status", 202), rule.get("body", "")
        if rule.get("hold"):
            return await self.held(status, rule.get("type", "text/event-stream"), headers, body, rule)
        return await wire.whole(self.writer, rule, status, body, rule.get("type", ""), headers)

    async def held(self, status: int, kind: str, headers: list, body: str, rule: dict) -> bool:
        """An answer that is never ended by us."""
        answer = wire.Answer(self.writer, rule)
        answer.head(status, [("Content-Type", kind), *headers], None)
        await answer.piece(body.encode())
        return await self.silence()

    async def over_sse(self, session: Session | None, message: dict, text: str, rule: dict) -> bool:
        """HTTP+SSE: the POST is acknowledged, the answer goes over the stream."""
        if rules.kind_of(message) == "request" and rule.get("push", True) and session:
            session.later(self.pushed(session, message, text, rule))
        status, body, kind = rule.get("status", 202), rule.get("body", "Accepted"), rule.get("type", "text/plain")
        headers = self.extra(rule) + self.world.cookie(self.request)
        if rule.get("hold"):
            return await self.held(status, kind, headers, body, rule)
        return await wire.whole(self.writer, rule, status, body, kind, headers)

    async def pushed(self, session: Session, message: dict, text: str, rule: dict):
        for one in await self.said(session, message, text, rule):
            session.send(one)

    async def said(self, session: Session | None, message: dict, text: str, rule: dict) -> list[str]:
        """The events of an event stream that answers a request."""
        words = rules.words_of(message, text)
        events = [self.event(rules.fill(one, words), rule) for one in rule.get("before", [])]
        if session and rule.get("awaits"):
            for event in events:
                session.send(event)
            await session.reply(rule["awaits"])
            events = []
        said = rules.answer(self.dialect, message, text, rule)
        if "events" in rule:
            return events + [rules.fill(rule["events"], words | {"answer": said})]
        tail = [self.event(rules.fill(one, words), rule) for one in rule.get("behind", [])]
        return events + ([self.event(said, rule)] if rule.get("answered", True) else []) + tail

    @staticmethod
    def event(message: str, rule: dict) -> str:
        return rules.fill(rule.get("event", "event: message\ndata: $data\n\n"), {"data": message})

    async def over_http(self, session: Session | None, message: dict, text: str, rule: dict) -> bool:
        headers = self.extra(rule) + self.world.cookie(self.request)
        if message["method"] == "initialize" and not self.dialect.get("stateless"):
            session = self.world.open(self.dialect.get("session_id", "$uuid"))
            if rule.get("status", 200) == 200 or rule.get("opens"):
                headers.append(("Mcp-Session-Id", session.id))
        if rule.get("poll"):
            return await polled(self, session, message, text, rule, headers)
        if rule.get("elsewhere") and session:
            for event in await self.said(session, message, text, rule):
                session.send(event)
            return await wire.whole(self.writer, rule, 202, "", "", headers)
        status = rule.get("status", 200)
        if rule.get("as") == "sse" and "body" not in rule:
            return await self.streamed(session, message, text, rule, headers, status)
        said = rules.answer(self.dialect, message, text, rule)
        default = said if status < 300 or "answer" in rule or "error" in rule else ""
        words = rules.words_of(message, text) | {"answer": said}
        body = rules.fill(rule["body"], words) if "body" in rule else default
        body = rule.get("prefix", "") + body + rule.get("suffix", "")
        kind = rule.get("type", "application/json" if body else "")
        if rule.get("hold"):
            return await self.held(status, kind, headers, body, rule)
        return await wire.whole(self.writer, rule, status, body, kind, headers)

    async def streamed(self, session, message, text, rule, headers, status) -> bool:
        answer = wire.Answer(self.writer, rule)
        answer.head(status, [("Content-Type", rule.get("type", "text/event-stream")), *headers], None)
        await answer.piece(rule.get("prefix", "").encode())
        if rule.get("awaits") and session:
            for one in rule.get("before", []):
                await answer.piece(self.event(one, rule).encode())
            await session.reply(rule["awaits"])
            rule = {key: value for key, value in rule.items() if key not in ("before", "awaits")}
        for _ in range(int(rule.get("works", 0) * 5)):
            await asyncio.sleep(0.2)
            await answer.piece(rule.get("sign", ": at work\n\n").encode())
        for event in await self.said(session, message, text, rule):
            await answer.piece(event.encode("utf-8", "surrogatepass"))
        if rule.get("hold"):
            return await self.silence()
        if rule.get("stop") == "cut":
            return False
        await answer.end()
        return not answer.closes


COUNTER = itertools.count(1)
UNSUPPORTED = '{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2026-07-28"]}}'


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialects", required=True, help="JSON list of dialects")
    options = parser.parse_args()
    with open(options.dialects, encoding="utf-8") as file:
        server = Server(json.load(file))
    listener = await asyncio.start_server(server.connection, "127.0.0.1", 0, backlog=1024)
    print(f"ready {listener.sockets[0].getsockname()[1]}", flush=True)
    # Ends with whoever started us.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
