"""Removes passwords and tokens from addresses, before they are printed or stored."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

_HIDDEN: Final = "***"
_WEB: Final = ("http", "https")
# `scheme://user:password@`. Like SQLAlchemy, it lets a password contain any character but @, and the last @ counts.
_LOGIN: Final = re.compile(r"\b(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^\s:/?#@'\"]*)(?P<password>:\S*)?@", re.I)
_PORT_AND_PATH: Final = re.compile(r":\d{1,5}/")
# `?password=…`, also inside a percent-encoded `odbc_connect=…;PWD=…`.
_NAMES: Final = "password|passwd|pwd|sslpassword|token|access_token|api_key|apikey|secret"
_QUERY: Final = re.compile(rf"(?P<name>(?:[?&;]|%3b)(?:{_NAMES})(?:=|%3d))[^&;%\s'\"]+", re.I)


def without_secrets(text: str) -> str:
    """The text with the password of every address replaced: `postgresql://user:***@host/db`.

    A user name without a password is kept, except in a web address, where it may be a token.
    """
    return _QUERY.sub(rf"\g<name>{_HIDDEN}", _LOGIN.sub(_hide, text))


def without_login(address: str) -> str:
    """A web address without user name and password, for a link: `http://host:5000`."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _hide(match: re.Match[str]) -> str:
    scheme, user, password = match["scheme"], match["user"], match["password"]
    web = scheme.lower() in _WEB
    if password is None:
        return f"{scheme}://{_HIDDEN if web else user}@"
    if web and _PORT_AND_PATH.match(password):  # the @ belongs to the path: `http://host:5000/a@b`
        return match[0]
    return f"{scheme}://{user}:{_HIDDEN}@"
