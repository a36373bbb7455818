"""The agents' oddities, one function each."""

import json
import socket
import time

from agents import BOTH, AGENTS, Place, Stream, Wire, agent, call, hello, nonce, said

__all__ = ["AGENTS"]


def answered(place: Place, session: str, **how):
    """A call of a session is answered with its own nonce."""
    mine = nonce()
    answer = place.ask(call(mine), session=session, **how)
    assert answer.status == 200, f"{answer.status} {answer.text[:200]}"
    assert said(answer.result(1)) == mine, answer.text[:200]


def accepting(name: str, accept: str | None, source="seen by trial"):
    @agent(f"accept-{name}", source)
    def run(place: Place):
        how = {"leave": ["Accept"]} if accept is None else {"headers": {"Accept": accept}}
        session = place.open(**how)
        answered(place, session, **how)


accepting("anything", "*/*", "XS-MLVP/UCAgent#127")
accepting("nothing-said", None, "simonx1/ruby-mcp-client#29")
accepting("json-alone", "application/json", "modelcontextprotocol/typescript-sdk#1944")
accepting("streams-alone", "text/event-stream")
accepting("with-weights", "application/json;q=0.9, text/event-stream;q=0.8, */*;q=0.1")
accepting("in-capitals", "Application/JSON,TEXT/EVENT-STREAM")


def typed(name: str, kind: str):
    @agent(f"body-typed-{name}", "seen by trial")
    def run(place: Place):
        how = {"headers": {"Content-Type": kind}}
        answered(place, place.open(**how), **how)


typed("with-charset", "application/json; charset=utf-8")
typed("in-capitals", "Application/JSON;Charset=UTF-8")


def numbered(name: str, text: str):
    @agent(f"id-{name}", "seen by trial")
    def run(place: Place):
        session, mine = place.open(), nonce()
        body = json.dumps(call(mine, "ID")).replace('"ID"', text, 1)
        answer = place.ask(body.encode(), session=session)
        assert answer.status == 200, f"{answer.status} {answer.text[:200]}"
        assert f'"id":{text}' in answer.text.replace('"id": ', '"id":'), answer.text[:200]
        assert mine in answer.text


numbered("zero", "0")
numbered("negative", "-7")
numbered("huge", "9007199254740993")
numbered("text", '"call-1"')
numbered("empty-text", '""')
numbered("unicode", '"zähler ☃"')
numbered("escaped", '"a\\u0062\\"c"')
numbered("uuid", '"3f2504e0-4f89-11d3-9a0c-0305e82c3301"')


@agent("id-number-and-text-at-once", "seen by trial")
def both_ids(place: Place):
    session = place.open()
    one, two = nonce(), nonce()
    wires = [Wire(place.gateway), Wire(place.gateway)]
    wires[0].send(place.request(call(one, 1), session=session))
    wires[1].send(place.request(call(two, "1"), session=session))
    assert said(wires[0].answer().result(1)) == one
    assert said(wires[1].answer().result("1")) == two


@agent("batch-of-two", "seen by trial")
def batch(place: Place):
    session = place.open("2025-03-26")
    one, two = nonce(), nonce()
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
    answer = place.ask([call(one, 1), note, call(two, 2)], session=session)
    assert answer.status == 200, f"{answer.status} {answer.text[:200]}"
    assert (said(answer.result(1)), said(answer.result(2))) == (one, two)


@agent("never-says-initialized", "seen by trial")
def unsaid(place: Place):
    answer = place.ask(hello())
    answered(place, answer.headers["mcp-session-id"])


@agent("greets-twice", "seen by trial")
def twice(place: Place):
    session = place.open()
    again = place.ask(hello(), session=session)
    assert again.status == 200 and "protocolVersion" in again.text, f"{again.status} {again.text[:200]}"
    answered(place, session)


@agent("asks-for-an-unknown-revision", "seen by trial")
def future(place: Place):
    answer = place.ask(hello("2031-01-01"))
    assert answer.status == 200, f"{answer.status} {answer.text[:200]}"
    assert answer.result("hello")["protocolVersion"].startswith("20")


@agent("path-with-a-slash", "PrefectHQ/fastmcp#991")
def slash(place: Place):
    how = {"path": "/s-sound-http/mcp/"}
    answered(place, place.open(**how), **how)


@agent("session-header-in-capitals", "seen by trial")
def capitals(place: Place):
    session = place.open()
    answered(place, "", headers={"MCP-SESSION-ID": session})


@agent("body-in-chunks", "seen by trial")
def chunks(place: Place):
    session, mine = place.open(), nonce()
    data = json.dumps(call(mine)).encode()
    wire = Wire(place.gateway)
    head = place.request(b"", session=session, headers={"Transfer-Encoding": "chunked"}, leave=["Content-Length"])
    wire.send(head)
    for at in range(0, len(data), 10):
        wire.send(b"%x\r\n%s\r\n" % (len(data[at : at + 10]), data[at : at + 10]))
        time.sleep(0.01)
    wire.send(b"0\r\n\r\n")
    assert said(wire.answer().result(1)) == mine


@agent("body-byte-by-byte", "seen by trial")
def slowly(place: Place):
    session, mine = place.open(), nonce()
    wire = Wire(place.gateway)
    for byte in place.request(call(mine), session=session):
        wire.send(bytes([byte]))
    assert said(wire.answer().result(1)) == mine


@agent("body-after-100-continue", "seen by trial")
def expecting(place: Place):
    session, mine = place.open(), nonce()
    whole = place.request(call(mine), session=session, headers={"Expect": "100-continue"})
    head, _, body = whole.partition(b"\r\n\r\n")
    wire = Wire(place.gateway)
    wire.send(head + b"\r\n\r\n")
    assert b" 100 " in wire.file.readline()
    wire.file.readline()
    wire.send(body)
    assert said(wire.answer().result(1)) == mine


@agent("body-with-blanks-and-lines", "seen by trial")
def pretty(place: Place):
    session, mine = place.open(), nonce()
    answer = place.ask(b"\r\n " + json.dumps(call(mine), indent=4).encode() + b" \r\n", session=session)
    assert said(answer.result(1)) == mine


@agent("body-coded-and-refused", "seen by trial")
def coded(place: Place):
    import gzip

    session = place.open()
    data = gzip.compress(json.dumps(call(nonce())).encode())
    answer = place.ask(data, session=session, headers={"Content-Encoding": "gzip"})
    assert answer.status == 415, f"{answer.status} {answer.text[:200]}"


@agent("params-null-or-left-out", "seen by trial")
def without_params(place: Place):
    session = place.open()
    for more in ({}, {"params": None}, {"params": {}}, {"params": {"_meta": None}}, {"params": {"cursor": None}}):
        answer = place.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/list"} | more, session=session)
        assert answer.result(1)["tools"], f"{more}: {answer.text[:200]}"


@agent("arguments-null", "seen by trial")
def without_arguments(place: Place):
    session = place.open()
    answer = place.ask(call("", arguments=None), session=session)
    assert answer.status == 200 and answer.result(1)["content"], answer.text[:200]


@agent("unknown-methods-and-notifications", "seen by trial")
def unknown(place: Place):
    session = place.open()
    answer = place.ask({"jsonrpc": "2.0", "id": 5, "method": "vendor/thing"}, session=session)
    assert answer.status == 200 and answer.messages()[0]["error"]["code"] == -32601, answer.text[:200]
    for method in ("notifications/vendor", "notifications/cancelled", "notifications/progress"):
        noted = place.ask({"jsonrpc": "2.0", "method": method, "params": {"requestId": 4711}}, session=session)
        assert noted.status == 202, f"{method}: {noted.status}"
    answered(place, session)


@agent("pipelines-requests", "seen by trial")
def pipeline(place: Place):
    session = place.open()
    nonces = [nonce() for _ in range(5)]
    wire = Wire(place.gateway)
    wire.send(b"".join(place.request(call(mine, n), session=session) for n, mine in enumerate(nonces)))
    for n, mine in enumerate(nonces):
        assert said(wire.answer().result(n)) == mine


@agent("speaks-http-1-0", "seen by trial")
def old(place: Place):
    session, mine = place.open(), nonce()
    wire = Wire(place.gateway)
    wire.send(place.request(call(mine), session=session).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert said(wire.answer().result(1)) == mine


@agent("half-closes-after-a-call", "seen by trial")
def half_closed(place: Place):
    session, mine = place.open(), nonce()
    wire = Wire(place.gateway)
    wire.send(place.request(call(mine), session=session, headers={"Connection": "close"}))
    wire.socket.shutdown(socket.SHUT_WR)
    assert said(wire.answer().result(1)) == mine


@agent("hangs-up-after-posting-to-a-stream", "seen by trial")
def hung_up(place: Place):
    stream = Stream(place)
    stream.greet(stream.target())
    for n in range(5):
        mine = nonce()
        wire = Wire(place.gateway)
        wire.send(place.request(call(mine, n), path=stream.target()))
        wire.close()
        assert said(stream.result(n)) == mine
        place.ran(mine)


@agent("half-closes-after-posting-to-a-stream", "seen by trial")
def half_closed_post(place: Place):
    stream = Stream(place)
    stream.greet(stream.target())
    mine = nonce()
    wire = Wire(place.gateway)
    wire.send(place.request(call(mine), path=stream.target()))
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.answer().status == 202
    assert said(stream.result(1)) == mine


def resolving(name: str, source: str, base: str):
    @agent(f"endpoint-resolved-against-{name}", source)
    def run(place: Place):
        stream = Stream(place)
        query = stream.endpoint[stream.endpoint.index("?") :]
        target = base + query
        stream.greet(target)
        mine = nonce()
        assert place.ask(call(mine), path=target).status == 202
        assert said(stream.result(1)) == mine


resolving("the-origin", "modelcontextprotocol/java-sdk#150", "/")
resolving("the-parent", "modelcontextprotocol/kotlin-sdk#41", "/s-sound-sse/")
resolving("the-parent-without-slash", "seen by trial", "/s-sound-sse")


@agent("browser-asks-before-it-posts", "Kuadrant/mcp-gateway#605")
def preflight(place: Place):
    asked = {"Origin": "http://localhost:6274", "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "content-type,mcp-protocol-version,mcp-session-id"}
    answer = place.ask(b"", method="OPTIONS", headers=asked, leave=["Content-Type", "Content-Length", "Accept"])
    assert answer.status in (200, 204), f"{answer.status} {answer.text[:100]}"
    allowed = answer.headers.get("access-control-allow-headers", "").lower()
    assert answer.headers.get("access-control-allow-origin") == "http://localhost:6274", answer.headers
    assert all(word in allowed for word in ("content-type", "mcp-session-id", "mcp-protocol-version")), allowed


@agent("browser-reads-what-it-posted", "GDKsoftware/Delphi-MCP-Server#11")
def cross_origin(place: Place):
    how = {"headers": {"Origin": "http://localhost:6274"}}
    answer = place.ask(hello(), **how)
    assert answer.headers.get("access-control-allow-origin") == "http://localhost:6274", answer.headers
    assert "mcp-session-id" in answer.headers.get("access-control-expose-headers", "").lower(), answer.headers
    lost = place.ask(call(nonce()), session="unknown", **how)
    assert lost.status == 404 and "access-control-allow-origin" in lost.headers, f"{lost.status} {lost.headers}"


@agent("page-of-another-origin", "seen by trial")
def evil(place: Place):
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        answer = place.ask(hello(), headers=headers)
        assert answer.status in (403, 421), f"{headers}: {answer.status}"


@agent("deletes-its-session-twice", "seen by trial")
def deletes(place: Place):
    session = place.open()
    statuses = [place.ask(b"", method="DELETE", session=session).status for _ in range(2)]
    assert statuses[0] in (200, 202, 204) and statuses[1] == 404, statuses
    assert place.ask(call(nonce()), session=session).status == 404


@agent("reads-no-further-than-the-answer", "seen by trial")
def hangs_up(place: Place):
    session = place.open()
    for n in range(3):
        mine = nonce()
        wire = Wire(place.gateway)
        wire.send(place.request(call(mine, n), session=session, headers={"Accept": f"text/event-stream, {BOTH}"}))
        head = wire.head()
        assert head.status == 200
        wire.close()
        place.ran(mine)
    answered(place, session)
