"""An agent that says nothing for a while, in front of a server that pings its client and closes what is silent.

All cells wait at the same time. The session counts its own calls, so `touched 2` after the silence says that it is
the very session of before, not one that took its place.
"""

import argparse
import asyncio
import json
import logging
import sys

from clients import CLIENTS, said


async def one(options, cell: dict) -> bool:
    line = {"cell": cell["name"], "check": "idle", "ok": True}
    try:
        async with asyncio.timeout(options.seconds + options.patience):
            async with CLIENTS[options.client](cell["url"], options.transport, options.patience) as client:
                first = await client.call("touch", {})
                await asyncio.sleep(options.seconds)
                second = await client.call("touch", {})
        if (first, second) != ("touched 1", "touched 2"):
            raise RuntimeError(f"{first!r}, and after the silence {second!r}")
    except BaseException as error:
        line |= {"ok": False, "detail": said(error)}
    print(json.dumps(line), flush=True)
    return line["ok"]


async def run(options) -> int:
    passed = await asyncio.gather(*(one(options, cell) for cell in json.loads(options.cells)))
    return 0 if all(passed) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    parser.add_argument("--transport", choices=["sse", "http"], required=True)
    parser.add_argument("--cells", required=True, help="JSON list of cells")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the silence")
    parser.add_argument("--patience", type=float, default=25.0, help="seconds for everything else")
    logging.disable(logging.ERROR)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
