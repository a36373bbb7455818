"""HTTP/1.1 by hand: requests are read leniently, answers are written exactly as a rule spells them."""

import asyncio
import gzip
import random
import zlib

REASONS = {200: "OK", 202: "Accepted", 204: "No Content", 302: "Found", 404: "Not Found", 500: "Internal Server Error"}


class Request:
    """One request, its body whole."""

    def __init__(self, method: str, target: str, headers: dict, body: bytes):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.path, _, self.query = target.partition("?")


async def read(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; `None` at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Request(method, target, headers, await body_of(reader, headers))


async def body_of(reader: asyncio.StreamReader, headers: dict) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        body += await reader.readexactly(size)
        await reader.readline()
        if size == 0:
            return body


def coded(body: bytes, coding: str) -> bytes:
    if coding in ("gzip", "x-gzip"):
        return gzip.compress(body)
    if coding == "deflate":
        return zlib.compress(body)
    if coding == "raw-deflate":
        return zlib.compress(body, wbits=-15)
    raise ValueError(coding)


class Answer:
    """One answer on its way: head, then pieces, then the end, in the framing a rule names."""

    def __init__(self, writer: asyncio.StreamWriter, rule: dict):
        self.writer, self.rule = writer, rule
        self.framing = rule.get("framing", "")
        self.coder = zlib.compressobj(wbits=31) if rule.get("coding") == "stream-gzip" else None
        self.closes = rule.get("connection") == "close" or rule.get("http") == "1.0"

    def head(self, status: int, headers: list[tuple[str, str]], length: int | None):
        for _ in range(self.rule.get("interim", 0)):
            self.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        headers = list(headers)
        if length is None and not self.framing:
            self.framing = "chunked"
        if self.framing in ("chunked", "bytes", "extended"):
            headers.append(("Transfer-Encoding", "chunked"))
        elif self.framing == "close":
            self.closes = True
        elif length is not None:
            headers.append(("Content-Length", str(length)))
        if self.coder:
            headers.append(("Content-Encoding", "gzip"))
        if self.closes:
            headers.append(("Connection", "close"))
        reason = self.rule.get("reason", REASONS.get(status, "Status"))
        text = f"HTTP/{self.rule.get('http', '1.1')} {status} {reason}\r\n"
        for name, value in headers:
            text += f"{self.cased(name)}:{self.rule.get('header_space', ' ')}{value}\r\n"
        self.writer.write((text + "\r\n").encode("latin-1"))

    def cased(self, name: str) -> str:
        case = self.rule.get("header_case")
        return {"lower": name.lower(), "upper": name.upper()}.get(case, name)

    async def piece(self, data: bytes):
        if self.coder:
            data = self.coder.compress(data) + self.coder.flush(zlib.Z_SYNC_FLUSH)
        if not data:
            return
        if self.framing == "bytes":
            for at in range(len(data)):
                self.writer.write(b"1\r\n" + data[at : at + 1] + b"\r\n")
                if at % 7 == 0:
                    await self.writer.drain()
                    await asyncio.sleep(0)
        elif self.framing == "extended":
            half = random.randint(1, len(data))
            for part in (data[:half], data[half:]):
                if part:
                    self.writer.write(b"%x;name=value\r\n%s\r\n" % (len(part), part))
        elif self.framing == "chunked":
            self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        else:
            self.writer.write(data)
        await self.writer.drain()

    async def end(self):
        trailer = b"X-Checksum: 1\r\n" if self.framing == "extended" else b""
        if self.framing in ("chunked", "bytes", "extended"):
            self.writer.write(b"0\r\n" + trailer + b"\r\n")
        await self.writer.drain()


async def whole(writer, rule: dict, status: int, body: str, kind="text/plain", headers=()) -> bool:
    """A whole answer at once."""
    answer = Answer(writer, rule)
    answer.coder = None
    data = body.encode("utf-8", "surrogatepass")
    headers = list(headers)
    if coding := rule.get("coding") if rule.get("coding") != "stream-gzip" else None:
        data = coded(data, coding)
        headers.append(("Content-Encoding", coding.removeprefix("raw-")))
    if kind:
        headers.insert(0, ("Content-Type", kind))
    none = status == 204 or status == 304
    answer.head(status, headers, None if none and not rule.get("framing") else len(data))
    if not none:
        await answer.piece(data)
        await answer.end()
    await writer.drain()
    if rule.get("drop_idle"):
        return False
    return not answer.closes
