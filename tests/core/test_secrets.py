"""No password or token of an address is left in a text that is printed or stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.secrets import complete, kept_in_memory, shell_command, without_login, without_secrets


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
        ("https://host/a?X-Amz-Signature=abc%2Fdef&v=2", "https://host/a?X-Amz-Signature=***&v=2"),
        ("https://host/a?id=0a1b2c3d4e5f6071", "https://host/a?id=***"),
        ("https://host/a?author=Austen&tokenizer=gpt2", "https://host/a?author=Austen&tokenizer=gpt2"),
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


def test_values_of_secret_variables_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcd-1234\n")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password")  # an ordinary word
    assert (
        without_secrets("invalid header: 'Bearer abcd-1234\n', password") == "invalid header: 'Bearer ***\n', password"
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://me:hunter2@host:5000/mlflow", "http://host:5000/mlflow"),
        ("http://token@host/a", "http://host/a"),
        ("http://me:a b/c@d@host/a", "http://host/a"),
        ("https://host/a.txt?X-Amz-Date=2026&X-Amz-Signature=abc&v=2", "https://host/a.txt"),
        ("https://host/a.txt?token=***", "https://host/a.txt"),
        ("https://host/a.txt#sig=abc", "https://host/a.txt"),
        *((same, same) for same in ("http://host:5000", "https://host/a.txt?version=2", "http://[::1", "a.txt", "")),
    ],
)
def test_an_address_without_login_and_signature(address: str, expected: str) -> None:
    assert without_login(address) == expected
    assert kept_in_memory(address) == expected
    assert complete(expected) == address


def test_a_command_names_variables_in_place_of_addresses_with_secrets() -> None:
    arguments = ["my spec.yaml", "--tracking", "http://me:x@host", "--storage=mysql://me:x@host/db", "--plain"]
    assert shell_command(arguments) == (
        '\'my spec.yaml\' --tracking "$MLFLOW_TRACKING_URI" --storage="$GPT_HARNESS_STORAGE" --plain'
    )
    assert shell_command(["--tracking", "http://host", "--set", "data.url=http://me:x@host/a?sig=1"]) == (
        "--tracking http://host --set data.url=http://host/a"
    )
