"""Passwords stay out of plans: a plan is saved, logged and shown in reports."""

import re

SEPARATOR, EQUALS = r"(?:[?&;]|%(?:25)*(?:3F|26|3B))", r"(?:=|%(?:25)*3D)"  # ODBC's are inside a parameter, quoted
NAMES = r"[\w.+-]*(?:password|passwd|pwd|token|secret|credential|signature|(?:api|access)[_-]?key)[\w.-]*|sig|key|auth"
USERINFO = re.compile(r"(?i)://[^\s/:@]*:\S*@|(?<=http)://[^\s/?#@]+@|(?<=https)://[^\s/?#@]+@")
QUERY = re.compile(rf"(?i)({SEPARATOR}(?:{NAMES}){EQUALS})(?:(?!{SEPARATOR})\S)+")


def has_secret(text: str) -> bool:
    """Return True if a URI with a password, or with a token in the place of one or of its user, is in ``text``."""
    return bool(USERINFO.search(text) or QUERY.search(text))


def masked(text: str) -> str:
    """Return ``text`` with ``***`` for whatever ``has_secret`` sees."""
    return QUERY.sub(r"\1***", USERINFO.sub("://***@", text))
