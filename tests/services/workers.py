"""A supervisor whose workers can all be killed at once: forks N of the service over one socket for each line it reads.

All that is slow to import is imported before, by loading once what workers load, so that they are there in a moment.
It prints its port, then for every line the process ids of the workers that it started.
"""

import os
import socket
import sys

import uvicorn

import services.app
import services.swap
from pipelines.home import home
from pipelines.registry import package
from pipelines.registry.pointers import champions, read_pointer
from pipelines.store import feature_store


def work(listening: socket.socket) -> None:
    server = uvicorn.Server(uvicorn.Config(services.app.create_app, factory=True, access_log=False, log_level="error"))
    try:
        server.run(sockets=[listening])
    finally:
        os._exit(1)


def main(count: int) -> None:
    feature_store.open_store(home())
    for model in champions(home().pointers):
        if pointer := read_pointer(home().pointers, model):
            package.load(home(), pointer.tag)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        print(listening.getsockname()[1], flush=True)
        workers: list[int] = []
        for _ in sys.stdin:
            for worker in workers:
                os.waitpid(worker, 0)
            workers = [os.fork() or work(listening) or 0 for _ in range(count)]
            print(*workers, flush=True)


main(int(sys.argv[1]))
