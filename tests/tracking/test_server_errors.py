"""Every way in which a server refuses or does not answer is named, with the option that it comes from."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from harness.tracking import ServerError, load_runs
from harness.tracking.server_errors import Failure, failure_of
from servers import LOGIN_PAGE, Answer, Proxy, free_port

WRONG_LOGIN = Answer(401, "You are not authenticated.", {"WWW-Authenticate": 'Basic realm="mlflow"'})
PAGE = {"Content-Type": "text/html"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def said(uri: str | None) -> str:
    """The sentence about a server that cannot be used."""
    with pytest.raises(ServerError) as caught:
        load_runs("x", uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (
            WRONG_LOGIN,
            "the server wants a user name and a password (401 Unauthorized); set MLFLOW_TRACKING_",
        ),
        (
            Answer(403, "Permission denied"),
            "the server denies this user access (403 Forbidden: Permission denied);",
        ),
        (
            Answer(403, '{"error_code": "PERMISSION_DENIED", "message": "no right to read"}'),
            "the server denies this user access (403 Forbidden: no right to read); ask",
        ),
        (
            Answer(403, "Invalid Host header - possible DNS rebinding attack detected"),
            "the server does not allow the host name {host} (403 Forbidden: Invalid Host header); start it with "
            "--allowed-hosts {host}",
        ),
        (Answer(404, "<html>not found"), "there is no MLflow server under this path (404 Not Found); use"),
        (Answer(407), "a proxy wants a user name and a password (407 Proxy Authentication Required); write"),
        (Answer(413), "the server, or a proxy before it, refuses a request of this size (413 "),
        (Answer(429), "the server is busy (429 Too Many Requests); try again later"),
        (Answer(500), "the server failed (500 Internal Server Error); its log says why"),
        (Answer(502), "a proxy before the server answers that the server is not available (502 Bad Gateway); start"),
        (Answer(503), "a proxy before the server answers that the server is not available (503 Service Unavailable)"),
        (
            Answer(400, "plain HTTP request"),
            "the server refuses the request (400 Bad Request: plain HTTP request)",
        ),
        (Answer(200, LOGIN_PAGE, PAGE), "a web page answers, such as a login page, and not MLflow's API; correct"),
    ],
    ids=lambda value: f"{value.status} {value.body[:8]}" if isinstance(value, Answer) else "",
)
def test_an_answer_that_is_not_mlflows_is_named(answer: Answer, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(lambda _: answer) as server:
        cause = cause.format(host=server.address.removeprefix("http://"))
        assert said(server.address).startswith(f"--tracking: found {server.address}, but {cause}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        assert said(None).startswith(f"MLFLOW_TRACKING_URI: found {server.address}, but {cause}")


def test_a_redirect_to_a_login_page_is_named() -> None:
    page, elsewhere = Answer(200, LOGIN_PAGE, PAGE), Answer(302, "", {"Location": "/login"})
    with Proxy(lambda request: page if request.path == "/login" else elsewhere) as server:
        assert "a web page answers, such as a login page" in said(server.address)


@pytest.mark.parametrize(
    ("variables", "login", "cause"),
    [
        (
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hunter2"},
            "",
            "the server refuses the user name or the password of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            "(401 Unauthorized); correct them",
        ),
        ({}, "me:hunter2@", "the server refuses the user name or the password in the address of --tracking (401 "),
        ({"MLFLOW_TRACKING_TOKEN": "hunter2"}, "", "the server refuses the token of MLFLOW_TRACKING_TOKEN (401 "),
    ],
    ids=["variables", "address", "token"],
)
def test_a_wrong_login_names_where_it_comes_from(
    variables: dict[str, str], login: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Proxy(lambda _: WRONG_LOGIN) as server:
        text = said(server.address.replace("http://", f"http://{login}"))
        assert cause in text
        assert "hunter2" not in text
        assert "hunter2" in server.requests[0].login or "hunter2" in server.requests[0].headers["Authorization"]


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.slow
def test_silence_is_told_apart() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    start = "--tracking: found no MLflow server that answers at"
    assert said(address).startswith(f"{start} {address} (connection refused); start it, or correct the address")
    assert said("http://no-such-host.invalid:5000").startswith(
        f"{start} http://no-such-host.invalid:5000 (the host name no-such-host.invalid is unknown); correct the address"
    )
    with silent() as port:
        assert said(f"http://127.0.0.1:{port}").startswith(f"{start} http://127.0.0.1:{port} (no answer within 1 s); ")
    with Proxy(lambda _: Answer()) as server:
        assert said(server.address).startswith(
            f"{start} {server.address} (the connection was closed without an answer)"
        )
    with Proxy() as server:
        tls = server.address.replace("http://", "https://")
        assert f"found {tls}, but its certificate or protocol is refused ([SSL: " in said(tls)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_of_the_environment_is_named_without_its_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = f"http://me:hunter2@127.0.0.1:{free_port()}"
    monkeypatch.setenv(f"{scheme}_proxy", dead)
    text = said(f"{scheme}://mlflow.example:5000")
    shown = dead.replace("hunter2", "***")
    assert f"(the proxy of {scheme}_proxy ({shown}) fails: no connection); correct {scheme}_proxy, or add " in text
    with Proxy(lambda _: Answer(407)) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy.address)
        text = said(f"{scheme}://mlflow.example:5000")
        assert f"the proxy of {scheme}_proxy ({proxy.address}) wants a user name and a password (407 " in text
        proxy.rule = lambda _: Answer(502)
        assert "502 Bad Gateway" in said(f"{scheme}://mlflow.example:5000")
        assert f"{scheme}_proxy ({proxy.address})" in said(f"{scheme}://mlflow.example:5000")


def test_an_answer_of_mlflow_is_no_failure_of_the_server() -> None:
    missing = Answer(404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run x"}')
    with Proxy(lambda _: missing) as server, pytest.raises(ValueError, match="no run x") as caught:
        load_runs("x", server.address)
    assert not isinstance(caught.value, ServerError)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_a_request_that_would_be_refused_again(status: int) -> None:
    assert Failure("", "", status).final
    assert not Failure("", "", 429).final and not Failure("", "", 503).final and not Failure("", "").final


def test_any_other_error_is_not_explained() -> None:
    raised: Callable[[], BaseException] = lambda: ValueError("x")  # noqa: E731
    assert failure_of(raised(), "http://127.0.0.1") is None
