"""A real writer under load: prints the id of each record once it is acknowledged, until it is killed."""

import asyncio
import os
import sys
from pathlib import Path

from services.log import DurableLog


async def main() -> None:
    log = DurableLog(Path(sys.argv[1]), segment_bytes=20_000)
    await log.start()

    async def client(name: int) -> None:
        count = 0
        while True:
            record = f"{name}-{count}"
            await log.append(f'{{"id": "{record}", "padding": "{"x" * 200}"}}\n'.encode())
            os.write(1, f"{record}\n".encode())
            count += 1

    await asyncio.gather(*(client(name) for name in range(8)))


asyncio.run(main())
