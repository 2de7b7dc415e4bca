"""Who lives, and what ends with whom: hosts end with the search, or the trial, that they are for."""

import contextlib
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import psutil
import ray

from analysis.results.messages import first_line

P = ParamSpec("P")
R = TypeVar("R")
LEASE_SECONDS, OWNER_SECONDS = 10.0, 1.0


class Lease:
    """An actor's class; it does nothing but live as long as the search that made it."""


def end_with(lease: str) -> None:
    """End this process once an actor is gone; it goes on while Ray cannot be asked."""
    try:
        while True:
            time.sleep(LEASE_SECONDS)
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError, OSError):
                ray.get_actor(lease)
    except ValueError:
        os._exit(0)
    except Exception:  # without this thread, the process would outlive its search
        traceback.print_exc()
        os._exit(1)


def end_with_process(owner: int) -> None:
    """End this process once another of this node is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner)
        while lives(process):
            time.sleep(OWNER_SECONDS)
    os._exit(0)


def lives(process: psutil.Process) -> bool:
    """Return True if a process is running: neither a zombie, nor another process that has reused its id."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OSError):  # it cannot be inspected, so it may be running
        return True


def ending_if_broken(method: Callable[P, R]) -> Callable[P, R]:
    """End the process on an error that breaks the device: Ray notices, and trials continue in a new host."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except RuntimeError as error:
            from trainables.engine.device_errors import broken

            if broken(error):
                print(f"This host ends, for its device is broken: {first_line(error)}", file=sys.stderr, flush=True)
                os._exit(1)
            raise

    return guarded
