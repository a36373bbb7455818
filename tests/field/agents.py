"""Agents that speak as real ones do, byte by byte, at a sound server through the gateway; one JSON line of each.

Each function is one agent: it returns when all went as its name's row says, and raises when not.
"""

import argparse
import concurrent.futures
import json
import socket
import threading
import time
import uuid

PATIENCE = 20.0
AGENTS = []
BOTH = "application/json, text/event-stream"


def agent(name: str, source: str):
    """Adds an agent to the table; its oddity is the first line of what documents it."""

    def add(function):
        AGENTS.append((name, source, function))
        return function

    return add


class Answer:
    """One answer, its body whole, or what came of it so far."""

    def __init__(self, status: int, headers: dict, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def messages(self) -> list:
        """The messages of a JSON body or of an event stream."""
        if "event-stream" not in self.headers.get("content-type", ""):
            said = json.loads(self.body)
            return said if isinstance(said, list) else [said]
        lines = [line[5:].strip() for line in self.text.splitlines() if line.startswith("data:")]
        return [json.loads(line) for line in lines if line]

    def result(self, id_) -> dict:
        found = [one for one in self.messages() if one.get("id") == id_ and type(one.get("id")) is type(id_)]
        assert found, f"no answer under {id_!r}: {self.status} {self.text[:200]}"
        assert "result" in found[0], f"no result: {found[0]}"
        return found[0]["result"]


class Wire:
    """One connection."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes):
        self.socket.sendall(data)

    def close(self):
        self.file.close()
        self.socket.close()

    def head(self) -> Answer:
        """The next answer up to its body."""
        while True:
            line = self.file.readline()
            assert line, "the connection was closed without an answer"
            status, headers = int(line.split()[1]), {}
            while (line := self.file.readline().decode("latin-1").strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if status >= 200:
                return Answer(status, headers, b"")

    def answer(self, no_body: bool = False) -> Answer:
        answer = self.head()
        if no_body or answer.status in (204, 304):
            return answer
        if "chunked" in answer.headers.get("transfer-encoding", ""):
            while size := int(self.file.readline().split(b";")[0], 16):
                answer.body += self.file.read(size)
                self.file.readline()
            self.file.readline()
        elif "content-length" in answer.headers:
            answer.body = self.file.read(int(answer.headers["content-length"]))
        else:
            answer.body = self.file.read()
        return answer

    def chunk(self) -> bytes:
        size = int(self.file.readline().split(b";")[0], 16)
        data = self.file.read(size)
        self.file.readline()
        return data


class Place:
    """Where agents go."""

    def __init__(self, gateway: int, server: int):
        self.gateway, self.server = gateway, server

    def request(self, body, headers=(), path="/s-sound-http/mcp", method="POST", session=None, leave=()) -> bytes:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        own = {"Host": f"127.0.0.1:{self.gateway}", "Accept": BOTH, "Content-Type": "application/json"}
        own |= {"Content-Length": str(len(data))} | ({"Mcp-Session-Id": session} if session else {}) | dict(headers)
        lines = [f"{name}: {value}" for name, value in own.items() if name not in leave]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + data

    def ask(self, body, **how) -> Answer:
        wire = Wire(self.gateway)
        try:
            wire.send(self.request(body, **how))
            return wire.answer()
        finally:
            wire.close()

    def open(self, version="2025-06-18", **how) -> str:
        answer = self.ask(hello(version), **how)
        assert answer.status == 200, f"initialize: {answer.status} {answer.text[:200]}"
        session = answer.headers["mcp-session-id"]
        noted = self.ask({"jsonrpc": "2.0", "method": "notifications/initialized"}, session=session)
        assert noted.status == 202, f"initialized: {noted.status}"
        return session

    def runs(self, nonce: str) -> int:
        wire = Wire(self.server)
        try:
            wire.send(b"GET /ledger HTTP/1.0\r\n\r\n")
            told = json.loads(wire.answer().body)
        finally:
            wire.close()
        return sum(world["runs"].get(nonce, 0) for world in told.values())

    def ran(self, nonce: str):
        """Waits until a call was executed, and then whether it was executed once."""
        until = time.monotonic() + PATIENCE
        while not self.runs(nonce) and time.monotonic() < until:
            time.sleep(0.1)
        assert self.runs(nonce) == 1, f"executed {self.runs(nonce)} times"


class Stream:
    """An HTTP+SSE session: its GET, and where it is told to post to."""

    def __init__(self, place: Place, path="/s-sound-sse/sse", headers=()):
        self.place, self.path = place, path
        self.wire = Wire(place.gateway)
        head = {"Host": f"127.0.0.1:{place.gateway}", "Accept": "text/event-stream"} | dict(headers)
        lines = [f"{name}: {value}" for name, value in head.items()]
        self.wire.send("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
        answer = self.wire.head()
        assert answer.status == 200, f"the stream: {answer.status}"
        self.text = ""
        self.endpoint = self.event("endpoint")

    def event(self, kind: str) -> str:
        until = time.monotonic() + PATIENCE
        while True:
            # Comments keep the stream alive, but not what waits for an event.
            assert time.monotonic() < until, f"no {kind} event"
            while "\n\n" not in self.text:
                self.text += self.wire.chunk().decode()
            event, _, self.text = self.text.partition("\n\n")
            lines = event.splitlines()
            if f"event: {kind}" in lines:
                return "\n".join(line[6:] for line in lines if line.startswith("data: "))

    def target(self) -> str:
        """As browsers resolve it: against the URL of the stream."""
        if self.endpoint.startswith("?"):
            return self.path + self.endpoint
        return self.endpoint if self.endpoint.startswith("/") else f"{self.path.rsplit('/', 1)[0]}/{self.endpoint}"

    def result(self, id_) -> dict:
        while True:
            message = json.loads(self.event("message"))
            if message.get("id") == id_:
                assert "result" in message, f"no result: {message}"
                return message["result"]

    def greet(self, target: str):
        sent = self.place.ask(hello(), path=target)
        assert sent.status == 202, f"initialize: {sent.status} {sent.text[:100]}"
        self.result("hello")
        sent = self.place.ask({"jsonrpc": "2.0", "method": "notifications/initialized"}, path=target)
        assert sent.status == 202, f"initialized: {sent.status}"


def hello(version="2025-06-18", capabilities=None) -> dict:
    info = {"name": "raw", "version": "1"}
    params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": info}
    return {"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": params}


def call(nonce: str, id_=1, **more) -> dict:
    params = {"name": "echo", "arguments": {"nonce": nonce}} | more
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}


def nonce() -> str:
    return f"raw/{uuid.uuid4().hex}"


def said(result: dict) -> str:
    return result["content"][0]["text"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", type=int)
    parser.add_argument("--server", type=int)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    import oddities  # noqa: F401, it fills the table

    place, lock = Place(options.gateway, options.server), threading.Lock()

    def run(name, function):
        try:
            function(place)
            told = {"agent": name, "ok": True}
        except Exception as error:
            told = {"agent": name, "ok": False, "detail": f"{type(error).__name__}: {error}"[:400]}
        with lock:
            print(json.dumps(told), flush=True)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for name, _, function in AGENTS:
            if options.only in name:
                pool.submit(run, name, function)


if __name__ == "__main__":
    import sys

    # What imports us by name must find this very table.
    sys.modules["agents"] = sys.modules["__main__"]
    main()
