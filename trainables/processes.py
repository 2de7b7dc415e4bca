"""Processes of others that this one depends on, or works for."""

import psutil


def lives(process: psutil.Process) -> bool:
    """Say whether a process is there; one that has taken its number is another, and a zombie is none."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OSError):  # it cannot be seen, which says nothing
        return True
