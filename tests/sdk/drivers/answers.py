"""What one agent answers when a server asks it something: each answer holds this agent's own secret.

The record of what was asked is the proof in the other direction: a question that carries another agent's nonce,
or any question at all where none may arrive, is seen here and nowhere else.
"""

import uuid


class Answers:
    """Handlers for sampling, elicitation (form and url) and roots, in the shapes the SDKs want them."""

    def __init__(self, number: int):
        self.secret = f"secret-{number}-{uuid.uuid4().hex}"
        self.action = ("accept", "decline")[number % 2]
        self.asked: dict[str, list[str]] = {"sampling": [], "elicitation": [], "url": [], "roots": []}

    def sampling(self, text: str) -> str:
        self.asked["sampling"].append(text)
        return f"{self.secret} heard {text}"

    def form(self, message: str, schema: dict) -> dict:
        self.asked["elicitation"].append(message)
        field = schema["required"][0]
        return {field: f"{self.secret} heard {message}"}

    def url(self, message: str) -> str:
        self.asked["url"].append(message)
        return self.action

    def roots(self) -> list[str]:
        self.asked["roots"].append("")
        return [f"file:///{self.secret}"]

    def for_mcp(self) -> dict:
        """Callbacks for `mcp`, 1.x and 2.x alike."""
        from mcp import types

        async def sampling(_context, params):
            first = params.messages[0].content
            said = types.TextContent(type="text", text=self.sampling(first.text))
            return types.CreateMessageResult(role="assistant", content=said, model="gate")

        async def elicitation(_context, params):
            if params.mode == "url":
                return types.ElicitResult(action=self.url(params.message))
            return types.ElicitResult(action="accept", content=self.form(params.message, schema_of(params)))

        async def roots(_context):
            return types.ListRootsResult(roots=[types.Root(uri=uri) for uri in self.roots()])

        return {
            "sampling_callback": sampling,
            "elicitation_callback": elicitation,
            "list_roots_callback": roots,
        }

    def for_fastmcp(self) -> dict:
        """Handlers for FastMCP's client."""
        from fastmcp.client.elicitation import ElicitResult

        async def sampling(messages, _params, _context):
            return self.sampling(messages[0].content.text)

        async def elicitation(message, _kind, params, _context):
            if params.mode == "url":
                return ElicitResult(action=self.url(message))
            return ElicitResult(action="accept", content=self.form(message, schema_of(params)))

        async def roots(_context):
            return self.roots()

        return {"sampling_handler": sampling, "elicitation_handler": elicitation, "roots": roots}


def schema_of(params) -> dict:
    """The requested schema, whose attribute changed its spelling between the SDKs."""
    return getattr(params, "requested_schema", None) or params.requestedSchema
