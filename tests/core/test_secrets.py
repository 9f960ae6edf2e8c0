"""No password or token of an address is left in a text that is printed or stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.secrets import without_login, without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:hunter2@host:5000/mlflow", "http://me:***@host:5000/mlflow"),
        ("--tracking https://token123@host", "--tracking https://***@host"),
        ("found 'postgresql+psycopg://me:p/a?s#s@host:5432/db'", "found 'postgresql+psycopg://me:***@host:5432/db'"),
        ("mysql://me@host/db", "mysql://me@host/db"),
        ("mysql://me:it's@host/db", "mysql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=hunter2&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dhunter2%3B",
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D***%3B",
        ),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////home/a@b/mlflow.db and me@example.org", "sqlite:////home/a@b/mlflow.db and me@example.org"),
        ("http://a:x@one and http://b:y@two", "http://a:***@one and http://b:***@two"),
    ],
)
def test_what_is_secret_in_an_address(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


SECRET = st.text("abcXYZ019!$%&*+-_.~^:/?#@='", min_size=6).map(lambda text: f"S{text}T")


@given(SECRET, st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]), st.sampled_from(["", "me"]))
def test_no_password_is_left(secret: str, scheme: str, user: str) -> None:
    assert secret not in without_secrets(f"the same command: --tracking={scheme}://{user}:{secret}@host/path --plain")


def test_a_link_has_no_login() -> None:
    assert without_login("http://me:hunter2@host:5000/mlflow") == "http://host:5000/mlflow"
    assert without_login("http://host:5000") == "http://host:5000"
