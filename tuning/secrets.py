"""Passwords stay out of plans: a plan is saved, logged and shown in reports."""

import re

USERINFO = re.compile(r"://[^\s/:@]*:\S*@")
QUERY = re.compile(r"(?i)([?&;][a-z_]*(?:password|passwd|pwd|token|secret|api_?key|access_?key)[a-z_]*=)[^\s&;]+")


def has_secret(text: str) -> bool:
    """Say whether a URI with a password is in ``text``."""
    return bool(USERINFO.search(text) or QUERY.search(text))


def masked(text: str) -> str:
    """Return ``text`` with ``***`` for whatever ``has_secret`` sees."""
    return QUERY.sub(r"\1***", USERINFO.sub("://***@", text))
