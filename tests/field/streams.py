"""Event streams: the one an HTTP+SSE session lives on, the optional one of Streamable HTTP, and calls that are polled."""

import asyncio
import contextlib
import time

import rules
import wire


async def started(ex, rule: dict, default: int = 200) -> bool | None:
    """What a rule says of a stream before it is one; `None` when it opens."""
    if rule.get("delay"):
        await asyncio.sleep(rule["delay"])
    if rule.get("hang"):
        return await ex.silence()
    if rule.get("cut"):
        return False
    status = rule.get("status", default)
    if status != 200 or "body" in rule:
        kind = rule.get("type", "text/plain")
        return await wire.whole(ex.writer, rule, status, rule.get("body", ""), kind, ex.extra(rule))
    return None


async def open_get_stream(ex) -> bool:
    """GET of a Streamable HTTP session."""
    dialect, world = ex.dialect, ex.world
    name = ex.request.headers.get("mcp-session-id", "")
    session = world.sessions.get(name)
    resumed = ex.request.headers.get("last-event-id")
    if session and resumed in session.polls:
        world.book.saw("poll")
        return await again(ex, session, resumed)
    rule = ex.rule("GET", "http", session)
    if stray := world.stray(ex.request, "GET", False):
        return await ex.lost(stray, {})
    answered = await started(ex, rule, 405 if dialect.get("stateless") or dialect.get("era") == "modern" else 200)
    if answered is not None:
        return answered
    if session is None:
        return await ex.lost({"status": 404 if name else 400, "body": "no such session", "type": "text/plain"}, {})
    if session.listening and not rule.get("several"):
        return await ex.refused(409, -32000, "Conflict: Only one SSE stream is allowed per session")
    session.listening = True
    try:
        return await flow(ex, session, rule, rule.get("preface", ""))
    finally:
        session.listening = False


async def open_sse(ex) -> bool:
    """GET (or a POST that is taken for one) of HTTP+SSE: a session for as long as its stream."""
    world = ex.world
    rule = ex.rule("GET", "http", None)
    answered = await started(ex, rule)
    if answered is not None:
        return answered
    if ex.dialect.get("one_place") and world.streams:
        return await wire.whole(ex.writer, {}, 500, "Already connected to a transport")
    session = world.open("$uuid")
    host = ex.request.headers.get("host", "")
    words = {"base": world.base, "session": session.id, "host": host}
    words |= {"where": f"{world.base}/messages?session_id={session.id}"}
    first = rule.get("endpoint", "event: endpoint\ndata: $where\n\n")
    world.streams += 1
    try:
        return await flow(ex, session, rule, rules.fill(rule.get("preface", "") + first, words))
    finally:
        world.streams -= 1
        world.sessions.pop(session.id, None)
        session.ended.set()


async def flow(ex, session, rule: dict, first: str) -> bool:
    """Sends what waits for a stream until either side ends it, or a rule does."""
    answer = wire.Answer(ex.writer, rule)
    kind = rule.get("type", "text/event-stream")
    headers = [("Content-Type", kind), *ex.extra(rule), *ex.world.cookie(ex.request)]
    answer.head(200, [header for header in headers if header[1]], None)
    if rule.get("delay_body"):
        await ex.writer.drain()
        await asyncio.sleep(rule["delay_body"])
    await answer.piece(first.encode())
    away = asyncio.create_task(ex.reader.read(1))
    over = asyncio.create_task(session.ended.wait())
    until = time.monotonic() + rule.get("ends", 3600)
    try:
        while time.monotonic() < until:
            item = asyncio.create_task(session.queue.get())
            wait = min(until - time.monotonic(), rule.get("comments", 3600))
            done, _ = await asyncio.wait({item, away, over}, timeout=max(wait, 0), return_when=asyncio.FIRST_COMPLETED)
            if item in done:
                await answer.piece(item.result().encode("utf-8", "surrogatepass"))
                continue
            item.cancel()
            if away in done:
                return False
            if over in done:
                break
            if time.monotonic() < until:
                await answer.piece(rule.get("comment", ": ping\n\n").encode())
        if rule.get("stop") == "cut":
            return False
        await answer.end()
        return False
    finally:
        away.cancel()
        over.cancel()
        with contextlib.suppress(ConnectionError):
            await ex.writer.drain()


async def polled(ex, session, message: dict, text: str, rule: dict, headers: list) -> bool:
    """A call whose stream ends at once; its answer is there for who comes back with the event's id."""
    poll = rule["poll"]
    name = f"s{len(session.polls) + 1}-{session.id[:6]}"
    answer = "".join(await ex.said(session, message, text, rule))
    session.polls[name] = {"due": time.monotonic() + poll.get("seconds", 0.5), "answer": answer, "poll": poll}
    stream = wire.Answer(ex.writer, rule)
    stream.head(200, [("Content-Type", "text/event-stream"), *headers], None)
    await stream.piece(f"id: {name}\nretry: {poll['retry']}\ndata: \n\n".encode())
    await stream.end()
    return not stream.closes


async def again(ex, session, name: str) -> bool:
    """Who comes back for a polled call."""
    waiting = session.polls[name]
    stream = wire.Answer(ex.writer, {})
    stream.head(200, [("Content-Type", "text/event-stream")], None)
    if time.monotonic() >= waiting["due"]:
        await stream.piece(f"id: {name}-end\n{waiting['answer']}".encode())
    elif not waiting["poll"].get("empty"):
        await stream.piece(f"id: {name}\nretry: {waiting['poll']['retry']}\ndata: \n\n".encode())
    await stream.end()
    return True
