"""`python -m tests.support.emulators KIND --port N [--reject ADDRESS …] [--reject-file FILE]`: one emulator, a process.

It prints `listening on URL` once it does, and ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import trio

from tests.support.emulators import APIS, Emulator


async def main(arguments: argparse.Namespace) -> None:
    api = APIS[arguments.kind]()
    api.rejects = set(arguments.reject)
    if arguments.reject_file is not None:
        api.rejects |= {line.strip() for line in arguments.reject_file.read_text().splitlines() if line.strip()}
    emulator = Emulator(api)
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await nursery.start(emulator.serve, "127.0.0.1", arguments.port)
            sys.stdout.write(f"listening on {emulator.url}\n")
            sys.stdout.flush()
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.support.emulators")
    parser.add_argument("kind", choices=sorted(APIS))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--reject", nargs="*", default=[], help="recipients to refuse for good")
    parser.add_argument("--reject-file", type=Path, help="the same, one a line")
    trio.run(main, parser.parse_args())
