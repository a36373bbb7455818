"""Real stdio servers through the gateway: how much of what many agents write at once is there afterwards.

`memory`: every agent creates one entity, all at the same moment; then one of them reads the whole graph.
`filesystem`: every agent reads one of as many files, all at the same moment.
One JSON line: how many of how many, and what went wrong.
"""

import argparse
import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter

from clients import CLIENTS, said


async def memory(agents: list, _: str) -> int:
    names = [f"entity-{n}-{uuid.uuid4()}" for n in range(len(agents))]

    async def write(agent, name):
        entity = {"name": name, "entityType": "test", "observations": [f"seen by {name}"]}
        await agent.call("create_entities", {"entities": [entity]})

    await asyncio.gather(*(write(agent, name) for agent, name in zip(agents, names)))
    graph = await agents[0].call("read_graph", {})
    return sum(f'"{name}"' in graph for name in names)


async def filesystem(agents: list, folder: str) -> int:
    texts = [str(uuid.uuid4()) for _ in agents]
    for n, text in enumerate(texts):
        with open(f"{folder}/{n}.txt", "w") as file:
            file.write(text)

    async def read(agent, n):
        return texts[n] in await agent.call("read_text_file", {"path": f"{folder}/{n}.txt"})

    return sum(await asyncio.gather(*(read(agent, n) for n, agent in enumerate(agents))))


async def main(o) -> dict:
    began, errors, kept = time.monotonic(), Counter(), 0
    try:
        # Transports of the SDKs bind to the task that opened them: one stack, one task.
        async with contextlib.AsyncExitStack() as stack:
            agents = []
            for _ in range(o.agents):
                client = CLIENTS[o.client](o.url, o.transport, o.patience)
                agents.append(await stack.enter_async_context(client))
            kept = await {"memory": memory, "filesystem": filesystem}[o.kind](agents, o.folder)
    except BaseException as error:
        errors[said(error)] += 1
    return {
        "kept": kept,
        "total": o.agents,
        "seconds": round(time.monotonic() - began, 2),
        "errors": dict(errors),
    }


parser = argparse.ArgumentParser()
parser.add_argument("--client", default="mcp1")
parser.add_argument("--url", required=True)
parser.add_argument("--transport", default="http")
parser.add_argument("--kind", required=True)
parser.add_argument("--agents", type=int, default=50)
parser.add_argument("--folder", default="")
parser.add_argument("--patience", type=float, default=30)
print(json.dumps(asyncio.run(main(parser.parse_args()))), flush=True)
