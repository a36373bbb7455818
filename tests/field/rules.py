"""What a server of the laboratory says: sane answers, and the rules of a dialect that change them.

A dialect is a JSON object that the runner made from a row of `dialects/*.toml`. Its rules are matched by `on` (a
method, `GET`, `DELETE`, `POST`, `response`, or one of `any`, `any-message`, `any-request`, `any-notification`) and
narrowed by the other conditions. All matching rules are merged, and the earlier one wins where two say the same key.
"""

import json
import re
import time

MODERN = "2026-07-28"
LEGACY = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
MESSAGES = ["request", "notification", "response"]
KINDS = {"any-request": ["request"], "any-notification": ["notification"], "any-message": MESSAGES}


def tool(name: str, read_only: bool) -> dict:
    """A tool that takes a nonce and gives it back."""
    schema = {"type": "object", "properties": {"nonce": {"type": "string"}}, "required": ["nonce"]}
    row = {"name": name, "description": f"Returns the nonce ({name}).", "inputSchema": schema}
    return row | ({"annotations": {"readOnlyHint": True}} if read_only else {})


TOOLS = [tool("echo", False), tool("read", True), tool("special", False)]


class Book:
    """How often each thing was asked of one world, in all and at the most in one second, and what was executed."""

    def __init__(self):
        self.counts: dict[str, int] = {}
        self.runs: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self.recent: dict[str, list[float]] = {}
        self.notes: list[str] = []

    def saw(self, on: str) -> int:
        now = time.monotonic()
        recent = [t for t in self.recent.get(on, []) if now - t < 1.0] + [now]
        self.recent[on] = recent[-500:]
        self.peaks[on] = max(self.peaks.get(on, 0), len(recent))
        self.counts[on] = self.counts.get(on, 0) + 1
        return self.counts[on]

    def ran(self, nonce: str):
        self.runs[nonce] = self.runs.get(nonce, 0) + 1

    def report(self) -> dict:
        return {"counts": self.counts, "runs": self.runs, "peaks": self.peaks, "notes": self.notes}


def kind_of(message: dict) -> str:
    if "method" not in message:
        return "response"
    return "request" if "id" in message else "notification"


def name_of(message: dict) -> str:
    """What rules call a message: its method; a call of the tool `special` has a name of its own."""
    method = message.get("method", "response")
    if method == "tools/call" and (message.get("params") or {}).get("name") == "special":
        return "tools/call:special"
    return method


def merged(dialect: dict, on: str, kind: str, count: int, headers: dict, session_count: int = 0) -> dict:
    """The rules that apply, as one."""
    rule: dict = {}
    for one in dialect.get("rules", []):
        if applies(one, on, kind, count, headers, session_count):
            rule = one | rule
    return rule


def applies(rule: dict, on: str, kind: str, count: int, headers: dict, session_count: int) -> bool:
    wanted = rule["on"] if isinstance(rule["on"], list) else [rule["on"]]
    called = {on, on.split(":")[0], "any"}
    if not any(w in called or kind in KINDS.get(w, []) for w in wanted):
        return False
    if "first" in rule and count > rule["first"]:
        return False
    if "after" in rule and count <= rule["after"]:
        return False
    if "session_first" in rule and session_count > rule["session_first"]:
        return False
    if "session_after" in rule and session_count <= rule["session_after"]:
        return False
    holds = [re.search(want, headers.get(name, "")) for name, want in rule.get("if_header", {}).items()]
    fails = [re.search(want, headers.get(name, "")) for name, want in rule.get("unless_header", {}).items()]
    return all(holds) and not any(fails)


def fill(text: str, words: dict) -> str:
    """`$name` for each of the words; longer names first, so that none is taken for another's beginning."""
    for name in sorted(words, key=len, reverse=True):
        text = text.replace(f"${name}", words[name])
    return text


def raw_id(text: str, message: dict) -> str:
    """The id as it was written."""
    found = re.search(r'"id"\s*:\s*("(?:[^"\\]|\\.)*"|[-0-9.eE+]+)', text)
    return found.group(1) if found and "id" in message else "null"


def result_of(dialect: dict, message: dict) -> dict | None:
    """The sane result; `None` for a method nobody knows here."""
    method, params = message.get("method"), message.get("params") or {}
    modern = dialect.get("era") == "modern"
    if method == "initialize":
        return hello(dialect, params)
    if method == "ping":
        return {}
    if method == "server/discover" and modern:
        return complete({"supportedVersions": [MODERN], "capabilities": capabilities(dialect)})
    if method == "tools/list":
        return complete({"tools": TOOLS}) if modern else {"tools": TOOLS}
    if method == "tools/call":
        said = {"content": [{"type": "text", "text": (params.get("arguments") or {}).get("nonce", "")}]}
        return {"resultType": "complete"} | said if modern else said
    return None


def complete(result: dict) -> dict:
    info = {"io.modelcontextprotocol/serverInfo": {"name": "field", "version": "1"}}
    return {"resultType": "complete", "ttlMs": 1000, "cacheScope": "public", "_meta": info} | result


def capabilities(dialect: dict) -> dict:
    return json.loads(dialect.get("capabilities", '{"tools":{}}'))


def hello(dialect: dict, params: dict) -> dict:
    asked = params.get("protocolVersion")
    newest = dialect.get("version", LEGACY[0])
    version = asked if asked in LEGACY[LEGACY.index(newest) :] else newest
    return {
        "protocolVersion": version,
        "capabilities": capabilities(dialect),
        "serverInfo": {"name": dialect.get("server", "field"), "version": "1"},
    }


def answer(dialect: dict, message: dict, text: str, rule: dict) -> str:
    """The text of the message that answers a request."""
    sane = result_of(dialect, message)
    words = words_of(message, text)
    if "answer" in rule:
        words["result"] = json.dumps(sane)
        return fill(rule["answer"], words)
    own = fill(rule.get("id", "$id"), words)
    if "error" in rule:
        return f'{{"jsonrpc":"2.0","id":{own},"error":{fill(rule["error"], words)}}}'
    if "result" in rule:
        words["result"] = json.dumps(sane)
        return f'{{"jsonrpc":"2.0","id":{own},"result":{fill(rule["result"], words)}}}'
    if sane is None:
        return f'{{"jsonrpc":"2.0","id":{own},"error":{{"code":-32601,"message":"Method not found"}}}}'
    return f'{{"jsonrpc":"2.0","id":{own},"result":{json.dumps(sane)}}}'


def words_of(message: dict, text: str) -> dict:
    arguments = (message.get("params") or {}).get("arguments") or {}
    return {
        "id": raw_id(text, message),
        "method": message.get("method", ""),
        "nonce": str(arguments.get("nonce", "")) if isinstance(arguments, dict) else "",
        "tools": json.dumps(TOOLS),
    }
