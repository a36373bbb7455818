"""What one who comes finds of a dialect: sessions, cookies, and the ledger of what was asked and executed."""

import asyncio
import itertools
import json
import uuid

import rules

PATIENCE = 15.0
CLOSED = '{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Server not initialized"}}'
UNKNOWN = '{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}'


class Session:
    """One session, with what waits for its stream."""

    def __init__(self, name: str):
        self.id = name
        self.queue: asyncio.Queue = asyncio.Queue(1000)
        self.ended = asyncio.Event()
        self.listening = False
        self.ready = False
        self.calls = 0
        self.ids: set[str] = set()
        self.counts: dict[str, int] = {}
        self.answers: dict[str, asyncio.Future] = {}
        self.polls: dict[str, dict] = {}
        self.tasks: set[asyncio.Task] = set()

    def saw(self, on: str) -> int:
        self.counts[on] = self.counts.get(on, 0) + 1
        return self.counts[on]

    def send(self, text: str):
        if not self.queue.full():
            self.queue.put_nowait(text)

    def later(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _future(self, name: str) -> asyncio.Future:
        return self.answers.setdefault(name, asyncio.get_running_loop().create_future())

    def replied(self, message: dict):
        future = self._future(str(message.get("id")))
        if not future.done():
            future.set_result(message)

    async def reply(self, name: str):
        """Waits until the client has answered a request of ours."""
        await asyncio.wait_for(asyncio.shield(self._future(name)), PATIENCE)


class World:
    """One who comes, at one dialect."""

    def __init__(self, dialect: dict, base: str):
        self.dialect, self.base = dialect, base
        self.book = rules.Book()
        self.sessions: dict[str, Session] = {}
        self.cookies: set[str] = set()
        self.forgotten = 0
        self.streams = 0
        self.numbers = itertools.count(1)

    def open(self, template: str) -> Session:
        name = rules.fill(template, {"uuid": uuid.uuid4().hex, "n": str(next(self.numbers))})
        session = self.sessions[name] = Session(name)
        if self.dialect.get("one_session"):
            for other in [one for one in self.sessions.values() if one is not session]:
                self.sessions.pop(other.id)
                other.ended.set()
        return session

    def ran(self, message: dict, session: Session | None):
        nonce = ((message.get("params") or {}).get("arguments") or {}).get("nonce")
        if isinstance(nonce, str):
            self.book.ran(nonce)

    def find(self, request, on: str, kind: str, over_sse: bool) -> tuple[Session | None, dict | None]:
        """The session of a message, or how it is refused for want of one."""
        dialect = self.dialect
        if stray := self.stray(request, on, over_sse):
            return None, stray
        if over_sse:
            name = next((p[11:] for p in request.query.split("&") if p.startswith("session_id=")), "")
            session = self.sessions.get(name)
            if session is None:
                return None, {"status": 404, "body": "Could not find session", "type": "text/plain"}
            return session, self.early(session, on, kind, request)
        if on == "initialize" or dialect.get("stateless") or dialect.get("era") == "modern":
            return None, None
        name = request.headers.get("mcp-session-id")
        if name is None:
            return None, dialect.get("missing", {"status": 400, "body": CLOSED})
        session = self.sessions.get(name)
        if session is None:
            return None, dialect.get("unknown", {"status": 404, "body": UNKNOWN})
        if forgets := dialect.get("forgets"):
            session.calls += on == "tools/call"
            if session.calls > forgets["after"] and self.forgotten < forgets.get("times", 1):
                self.forgotten += 1
                self.sessions.pop(name)
                session.ended.set()
                body = forgets.get("body", UNKNOWN)
                return None, {"status": forgets.get("status", 404), "body": body, "type": forgets.get("type", "application/json")}
        return session, self.early(session, on, kind, request)

    def early(self, session: Session, on: str, kind: str, request) -> dict | None:
        """What comes before the handshake is over, and ids that were used before."""
        if kind == "request":
            text = request.body.decode()
            used = rules.raw_id(text, json.loads(text))
            if used in session.ids:
                self.book.notes.append(f"id {used} was used twice on a session")
            session.ids.add(used)
            if self.dialect.get("small_ids") and used.isdigit() and int(used) >= 2**31:
                self.book.notes.append(f"id {used} does not fit in 32 bits")
        if on == "notifications/initialized":
            asyncio.get_running_loop().call_later(self.dialect.get("handover", 0), setattr, session, "ready", True)
            return None
        if kind != "request" or session.ready or on in ("initialize", "ping") or not self.dialect.get("strict"):
            return None
        if not self.dialect.get("handover"):
            self.book.notes.append(f"{on} came before the handshake was over")
        error = '{"jsonrpc":"2.0","id":%s,"error":{"code":-32602,"message":"Invalid request parameters","data":""}}'
        return {"status": 200, "body": error % used, "early": True}

    def stray(self, request, on: str, over_sse: bool) -> dict | None:
        """A balancer with stickiness sends who lacks its cookie to an instance without the session."""
        name = self.dialect.get("cookie")
        if not name or self.dialect.get("cookie_unneeded") or (on == "initialize" and not over_sse):
            return None
        sent = [part.strip() for part in request.headers.get("cookie", "").split(";")]
        if any(part.startswith(f"{name}=") and part[len(name) + 1 :] in self.cookies for part in sent):
            return None
        return self.dialect.get("stray", {"status": 404, "body": UNKNOWN})

    def cookie(self, request, always: bool = False) -> list[tuple[str, str]]:
        name = self.dialect.get("cookie")
        if not name:
            return []
        if f"{name}=" in request.headers.get("cookie", "") and not self.dialect.get("cookie_rotates") and not always:
            return []
        value = uuid.uuid4().hex
        self.cookies.add(value)
        tail = rules.fill(self.dialect.get("cookie_tail", "; Path=/"), {"base": self.base})
        return [("Set-Cookie", f"{name}={value}{tail}"), *[tuple(one) for one in self.dialect.get("more_cookies", [])]]
