"""Removes passwords, tokens and signatures from addresses and commands, before they are printed or stored."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import unquote

TRACKING_VARIABLE: Final = "MLFLOW_TRACKING_URI"
STORAGE_VARIABLE: Final = "GPT_HARNESS_STORAGE"
_VARIABLES: Final = {"--tracking": TRACKING_VARIABLE, "--storage": STORAGE_VARIABLE}  # of options with an address
_HIDDEN: Final = "***"
_WEB: Final = ("http", "https")
# `scheme://user:password@`. Like SQLAlchemy, it lets a password contain any character but @, and the last @ counts.
_LOGIN: Final = re.compile(r"\b(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^\s:/?#@'\"]*)(?P<password>:\S*)?@", re.I)
_LOGIN_OF_ONE: Final = re.compile(
    r"^(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^:/?#@]*)(?P<password>:.*)?@", re.I | re.S
)
_PORT_AND_PATH: Final = re.compile(r":\d{1,5}/")
# `?password=…`, and the same inside a percent-encoded `odbc_connect=…;PWD=…`.
_FIELD: Final = re.compile(r"(?P<name>[?&;#](?P<key>[\w.~\[\]-]+)=)(?P<value>[^&;#\s'\"<>]+)")
_ENCODED_FIELD: Final = re.compile(
    r"(?P<name>(?:=|%3b|%26|%3f)(?P<key>[\w.~-]+)%3d)(?P<value>%7b.*?%7d|(?:(?!%3b|%26)[^&;#\s'\"<>])+)", re.I
)
# Names of fields with secrets: of logins, of SQLAlchemy's drivers, and of links signed for Amazon, Google, Azure, …
_SECRET_NAME: Final = re.compile(
    r"passw|pwd|passphrase|token(?!iz)|secret|signature|credential|auth(?!or)|session|jwt|hmac|api.?key|access.?key"
    r"|^(?:x-amz|x-goog|x-oss|x-cos)-|(?:^|[_.-])(?:sig|key|pass)$",
    re.I,
)
_SECRET_VARIABLE: Final = re.compile(r"PASSW|TOKEN(?!IZ)|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.I)  # names
_SHORTEST: Final = 8  # characters of a variable's value that is no ordinary word
_OPAQUE: Final = 16  # characters of letters and digits without a break, as no word has


def without_secrets(text: str) -> str:
    """The text with the secrets of every address replaced: `postgresql://user:***@host/db`, `?token=***`.

    A user name without a password is kept, except in a web address, where it may be a token. The values of
    environment variables such as `MLFLOW_TRACKING_TOKEN`, which errors of libraries may quote, are replaced too.
    """
    for value in _environment_secrets():
        text = text.replace(value, _HIDDEN)
    text = _LOGIN.sub(_hide_login, text)
    return _FIELD.sub(_hide_field, _ENCODED_FIELD.sub(_hide_field, text))


def without_login(address: str) -> str:
    """An address without user name, password and signed query, for a link or a spec: `http://host:5000`.

    An address without secrets stays as it is.
    """
    address = _LOGIN_OF_ONE.sub(lambda found: found[0] if _is_path(found) else f"{found['scheme']}://", address)
    for mark in "#?":
        head, _, fields = address.partition(mark)
        if any(map(_is_secret, re.split("[&;]", fields))):
            address = head  # a signature's other fields, such as its date, mean nothing without it
    return address


_complete: dict[str, str] = {}  # address without secrets → as the user wrote it


def kept_in_memory(address: str) -> str:
    """`without_login`; `complete` gives the whole address back, in this process only."""
    public = without_login(address)
    if public != address:
        _complete[public] = address
    return public


def complete(address: str) -> str:
    """The address with its secrets, if this process knows them."""
    return _complete.get(address, address)


def shell_address(address: str, variable: str = TRACKING_VARIABLE) -> str:
    """An address as an argument for a shell; one with a secret is named by its environment variable."""
    return shlex.quote(address) if without_secrets(address) == address else f'"${variable}"'


def shell_command(arguments: Iterable[str]) -> str:
    """A command line for a shell. An option's address with a secret is named by its environment variable instead."""
    return " ".join(_shell_words(list(arguments)))


def _shell_words(arguments: Sequence[str]) -> Iterator[str]:
    option = ""  # whose value comes next
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if option in _VARIABLES:
            yield shell_address(argument, _VARIABLES[option])
        elif equals and name in _VARIABLES:
            yield f"{name}={shell_address(value, _VARIABLES[name])}"
        elif argument.startswith(("data.url=", "--set=data.url=")):  # works: its text is in the cache
            setting, _, url = argument.partition("data.url=")
            yield shlex.quote(f"{setting}data.url={without_login(url)}")
        else:
            yield shlex.quote(without_secrets(argument))
        option = argument


def _environment_secrets() -> list[str]:
    found = (value.strip() for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return [value for value in found if len(value) >= _SHORTEST and not value.isalpha() and not value.startswith("/")]


def _hide_login(match: re.Match[str]) -> str:
    scheme, user, password = match["scheme"], match["user"], match["password"]
    if password is None:
        return f"{scheme}://{_HIDDEN if scheme.lower() in _WEB else user}@"
    return match[0] if _is_path(match) else f"{scheme}://{user}:{_HIDDEN}@"


def _is_path(match: re.Match[str]) -> bool:
    """Whether the @ belongs to the path: `http://host:5000/a@b`."""
    return match["scheme"].lower() in _WEB and bool(_PORT_AND_PATH.match(match["password"] or ""))


def _hide_field(match: re.Match[str]) -> str:
    return match["name"] + (_HIDDEN if _is_secret(f"{match['key']}={match['value']}") else match["value"])


def _is_secret(field: str) -> bool:
    """Whether `name=value` has the name of a secret, or a value that looks like a key and not like words."""
    name, _, value = field.rpartition("=")
    parts = re.split("[^A-Za-z0-9]", unquote(value))
    opaque = (part for part in parts if len(part) >= _OPAQUE and re.search("[A-Za-z]", part))
    return bool(_SECRET_NAME.search(name)) or any(re.search(r"\d.*\d", part) for part in opaque)
