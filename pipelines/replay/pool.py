"""Where fits are run: in this process, on several cores, or on a Dask cluster. All of them are executors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from features import HeadwayError
from pipelines.home import Home, environment

PATIENCE = "5s"
"""How long a scheduler may take to answer."""
IDLE = 30
"""Seconds after which a process without work ends."""


class Here(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """`Executor.submit`: the future is done when this returns."""
        found: Future[Any] = Future()
        try:
            found.set_result(function(*args, **named))
        except Exception as error:
            found.set_exception(error)
        return found


@contextmanager
def pool(at: Home, cores: int, dask: str | None = None) -> Iterator[Executor]:
    """An executor on `cores` processes of this machine, or on the Dask cluster whose scheduler is at `dask`.

    The workers of a cluster must see the root at the same path, and have Headway installed.

    Raises HeadwayError when the cluster cannot be reached.
    """
    if dask is not None:
        with _cluster(dask) as executor:
            yield executor
    elif cores == 1:
        yield Here()
    else:
        from joblib.externals.loky import ProcessPoolExecutor  # takes functions that pickle cannot

        with ProcessPoolExecutor(max_workers=cores, timeout=IDLE, env=environment(at, {})) as executor:
            yield executor


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise HeadwayError("--dask needs the package `distributed`: pip install distributed") from None
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise HeadwayError(f"no Dask scheduler answers at {address} ({error}). Start one: `dask scheduler`.") from None
    with client:
        yield client.get_executor()
