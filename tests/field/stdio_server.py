"""The laboratory's program over standard input and output: one dialect, one process, one session.

What it did is appended to the file of its world, one JSON line each, so that it is known however the process ends.
"""

import json
import sys
import time

import rules


class Program:
    """One dialect over two pipes."""

    def __init__(self, dialect: dict, ledger: str):
        self.dialect = dialect
        self.ledger = open(ledger, "a", encoding="utf-8")  # noqa: SIM115, it lives as long as we do
        self.out = sys.stdout.buffer
        self.counts: dict[str, int] = {}
        self.ids: set[str] = set()

    def note(self, **what):
        self.ledger.write(json.dumps(what) + "\n")
        self.ledger.flush()

    def write(self, text: str, encoding: str = "utf-8"):
        self.out.write(text.encode(encoding))
        self.out.flush()

    def run(self):
        self.note(saw="start")
        start = rules.merged(self.dialect, "start", "start", 1, {})
        time.sleep(start.get("delay", 0))
        self.write(start.get("banner", "") * start.get("times", 1))
        if start.get("errors"):
            sys.stderr.write(start["errors"] * start.get("times", 1))
            sys.stderr.flush()
        for line in sys.stdin.buffer:
            text = line.decode().strip()
            if text:
                self.take(json.loads(text), text)
        end = rules.merged(self.dialect, "end", "end", 1, {})
        time.sleep(end.get("delay", 0))

    def take(self, message: dict, text: str):
        on, kind = rules.name_of(message), rules.kind_of(message)
        self.counts[on] = self.counts.get(on, 0) + 1
        self.note(saw=on)
        rule = rules.merged(self.dialect, on, kind, self.counts[on], {}, self.counts[on])
        if kind == "request":
            used = rules.raw_id(text, message)
            if used in self.ids:
                self.note(fault=f"id {used} was used twice on a session")
            self.ids.add(used)
            if self.dialect.get("small_ids") and used.isdigit() and int(used) >= 2**31:
                self.note(fault=f"id {used} does not fit in 32 bits")
        if kind == "request" and on.startswith("tools/call") and rule.get("run", True):
            self.note(ran=((message.get("params") or {}).get("arguments") or {}).get("nonce"))
        time.sleep(rule.get("delay", 0))
        if rule.get("exit") is not None:
            sys.exit(rule["exit"])
        self.write(rule.get("noise", "") * rule.get("times", 1), rule.get("encoding", "utf-8"))
        if kind != "request" or rule.get("hang") or not rule.get("answered", True):
            return
        words = rules.words_of(message, text)
        for one in rule.get("before", []):
            self.write(rules.fill(one, words) + "\n")
        said = rule.get("prefix", "") + rules.answer(self.dialect, message, text, rule)
        self.write(rules.fill(rule.get("line", "$data\n"), {"data": said}))
        for one in rule.get("behind", []):
            self.write(rules.fill(one, words) + "\n")


def main():
    dialects, name, ledger = sys.argv[1:4]
    with open(dialects, encoding="utf-8") as file:
        dialect = next(one for one in json.load(file) if one["name"] == name)
    Program(dialect, ledger).run()


if __name__ == "__main__":
    main()
