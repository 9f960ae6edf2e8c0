"""Explains why a request to an MLflow server or to its database failed: what answered, and what to do about it.

MLflow raises its own exceptions for API requests and those of `requests` for artifacts, which are `OSError`s. The HTTP
status is in the message of the first, and in the response of the second.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from harness.core.database_servers import server_name, unavailable
from harness.core.secrets import without_secrets

_USER: Final = "MLFLOW_TRACKING_USERNAME"
_PASSWORD: Final = "MLFLOW_TRACKING_PASSWORD"
_TOKEN: Final = "MLFLOW_TRACKING_TOKEN"
# The words of other libraries: the first two and `_INVALID_HOST` are MLflow's.
_FAILED: Final = re.compile(r"failed with error code (\d{3}) != \d+\. Response body: '(.*)'", re.S)  # of MLflow
_NOT_JSON: Final = re.compile(
    r"response body was not in a valid JSON format\. Response body: '(.*)'", re.S
)  # of MLflow
_RETRIED: Final = re.compile(r"too many (\d{3}) error responses")  # of urllib3
_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")  # of http.client
_INVALID_HOST: Final = "Invalid Host header"
_MLFLOW_REFUSES: Final = {"PERMISSION_DENIED": 403, "UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401}
_LATER: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_GATEWAY: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_REASON_LENGTH: Final = 80  # characters of an answer that are shown


@dataclass(frozen=True)
class Failure:
    """Why a request failed.

    Attributes:
        cause: what happened, a clause.
        remedy: what to do, a clause.
        status: of the HTTP answer; None if there was none.
        silent: whether nothing answered.
    """

    cause: str
    remedy: str
    status: int | None = None
    silent: bool = False

    @property
    def final(self) -> bool:
        """Whether the same request would be refused again, such as one that is too large."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in _LATER

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}"


PAGE: Final = Failure(
    "a web page answers, such as a login page, and not MLflow's API",
    f"correct the address, or set {_TOKEN} if the server wants a token",
    HTTPStatus.OK.value,
)


def failure_of(error: BaseException, uri: str) -> Failure | None:
    """Why a request to the server or database at `uri` failed; None for an error of another kind.

    MLflow's own answers, such as a missing run, are no failure in this sense.
    """
    if reason := unavailable(error):
        return Failure(f"{server_name(uri)} cannot be used: {reason}", "its log says more", silent=True)
    chain = list(_chain(error))
    return _from_proxy(chain, uri) or _from_answer(chain, uri) or _from_silence(chain, uri)


def option_of(uri: str) -> str:
    """The option or environment variable that an address comes from."""
    return "MLFLOW_TRACKING_URI" if uri == os.environ.get("MLFLOW_TRACKING_URI") else "--tracking"


# What answered ---------------------------------------------------------------------------------------------------


def _from_answer(chain: list[BaseException], uri: str) -> Failure | None:
    answer = next(filter(None, map(_answer, chain)), None)
    if answer is None:
        return None
    status, body = answer
    shown = _shown_status(status)
    if status == HTTPStatus.OK:
        return PAGE
    if status == HTTPStatus.UNAUTHORIZED:
        return Failure(*_login(uri, shown), status)
    if status == HTTPStatus.FORBIDDEN and _INVALID_HOST in body:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        return Failure(
            f"the server does not allow the host name {host} ({shown}: {_INVALID_HOST})",
            f"start it with --allowed-hosts {host}, or use a name that it allows",
            status,
        )
    if status == HTTPStatus.FORBIDDEN:
        return Failure(f"the server denies this user access ({shown}{_reason(body)})", "ask for the permission", status)
    if status == HTTPStatus.NOT_FOUND:
        cause = f"there is no MLflow server under this path ({shown})"
        return Failure(cause, "use the address of MLflow's start page", status)
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return _proxy_login(uri, shown)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        limit = "raise the limit, such as nginx's client_max_body_size"
        return Failure(f"the server, or a proxy before it, refuses a request of this size ({shown})", limit, status)
    if status in _GATEWAY:
        name, proxy = _proxy(uri)
        who = f"the proxy of {name} ({proxy})" if name else "a proxy before the server"
        return Failure(f"{who} answers that the server is not available ({shown})", "start the server", status)
    if status in _LATER:
        return Failure(f"the server is busy ({shown})", "try again later", status)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Failure(f"the server failed ({shown})", "its log says why", status)
    return Failure(f"the server refuses the request ({shown}{_reason(body)})", "check the address", status)


def _answer(error: BaseException) -> tuple[int, str] | None:
    """Status and text of an HTTP answer that an error is about; None for any other error."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, JSONDecodeError
    from requests.exceptions import RetryError

    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code, error.response.text
    if isinstance(error, RetryError) and (found := _RETRIED.search(str(error))):
        return int(found[1]), ""
    if isinstance(error, RestException):
        refused = _MLFLOW_REFUSES.get(error.error_code)
        return (refused, str(error.json.get("message", ""))) if refused else None
    if isinstance(error, MlflowException):
        if found := _FAILED.search(str(error)):
            return int(found[1]), found[2]
        if found := _NOT_JSON.search(str(error)):
            return HTTPStatus.OK.value, found[1]
    if isinstance(error, JSONDecodeError):
        return HTTPStatus.OK.value, ""
    return None


def _login(uri: str, shown: str) -> tuple[str, str]:
    """Cause and remedy of a refused login, by where the login comes from."""
    # MLflow sends the variables; `requests` replaces them by the login of the address.
    if urlsplit(uri).username is not None:
        source = f"in the address of {option_of(uri)}"
    elif os.environ.get(_USER) and os.environ.get(_PASSWORD):
        source = f"of {_USER} and {_PASSWORD}"
    elif os.environ.get(_TOKEN):
        return f"the server refuses the token of {_TOKEN} ({shown})", "correct it"
    else:
        return f"the server wants a user name and a password ({shown})", f"set {_USER} and {_PASSWORD}"
    return f"the server refuses the user name or the password {source} ({shown})", "correct them"


# What did not ------------------------------------------------------------------------------------------------------


def _from_silence(chain: list[BaseException], uri: str) -> Failure | None:
    from requests import ConnectionError as NoConnection
    from requests import Timeout

    host = urlsplit(uri).hostname
    start = "start it, or correct the address"

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(error, kinds) for error in chain)

    if has(ssl.SSLError):
        why = next(str(error) for error in chain if isinstance(error, ssl.SSLError))
        certificate = "set MLFLOW_TRACKING_SERVER_CERT_PATH to its certificate, or correct the address"
        return Failure(f"its certificate or protocol is refused ({_clipped(why)})", certificate)
    if has(socket.gaierror):
        return Failure(f"the host name {host} is unknown", "correct the address", silent=True)
    if has(ConnectionRefusedError):
        return Failure("connection refused", start, silent=True)
    if has(ConnectionError):  # reset, or closed without an answer
        return Failure("the connection was closed without an answer", start, silent=True)
    if has(TimeoutError, Timeout):
        seconds = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")
        limit = f" within {seconds} s" if seconds else ""
        return Failure(f"no answer{limit}", f"{start}, or raise MLFLOW_HTTP_REQUEST_TIMEOUT", silent=True)
    if has(NoConnection):
        why = next(str(error.strerror) for error in chain if isinstance(error, OSError) and error.strerror)
        return Failure(why or "no connection", start, silent=True)
    return None


# A proxy of this machine's environment -----------------------------------------------------------------------------


def _from_proxy(chain: list[BaseException], uri: str) -> Failure | None:
    from requests.exceptions import ProxyError

    error = next((error for error in chain if isinstance(error, ProxyError)), None)
    if error is None:
        return None
    found = _TUNNEL.search(str(error))
    if found and int(found[1]) == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return _proxy_login(uri, _shown_status(int(found[1])))
    name, proxy = _proxy(uri)
    why = _shown_status(int(found[1])) if found else "no connection"
    host = urlsplit(uri).hostname
    return Failure(
        f"the proxy of {name} ({proxy}) fails: {why}", f"correct {name}, or add {host} to no_proxy", silent=True
    )


def _proxy_login(uri: str, shown: str) -> Failure:
    name, proxy = _proxy(uri)
    which = f"the proxy of {name} ({proxy})" if name else "a proxy"
    remedy = f"write {name or 'its address'} as http://USER:PASSWORD@HOST:PORT"
    return Failure(f"{which} wants a user name and a password ({shown})", remedy, 407)


def _proxy(uri: str) -> tuple[str, str]:
    """The environment variable of the proxy for an address, and the proxy's address; empty if there is none."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(uri, get_environ_proxies(uri))
    if not proxy:
        return "", ""
    lower = [f"{urlsplit(uri).scheme}_proxy", "all_proxy"]
    names = [case for name in lower for case in (name, name.upper())]
    name = next((name for name in names if os.environ.get(name) == proxy), lower[0])
    return name, without_secrets(proxy)


# Helpers -----------------------------------------------------------------------------------------------------------


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it was raised from or while handling, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (
            one.__cause__,
            one.__context__,
            getattr(one, "reason", None),
            *one.args,
        )  # urllib3 keeps it in `reason`
        waiting += [other for other in inner if isinstance(other, BaseException)]


def _shown_status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _reason(body: str) -> str:
    """An answer of one short line, to be appended; nothing for a page."""
    text = " ".join(body.split())
    return f": {_clipped(text)}" if text and "<" not in text else ""


def _clipped(text: str) -> str:
    text = without_secrets(" ".join(text.split()))
    return text if len(text) <= _REASON_LENGTH else text[: _REASON_LENGTH - 1] + "…"
