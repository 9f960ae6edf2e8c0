"""A hub of two models on this machine, and what a process finds there: `python hub_server.py FOLDER`, as JSON.

huggingface_hub reads its settings when it is imported, so this is a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "someone/small-gpt2"
PICKLED = "someone/pickled-gpt2"  # the same without safetensors
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for two models, whose files are in `folder`."""

    folder: Path
    asked: list[str] = []  # noqa: RUF012 (shared by all requests)

    def do_HEAD(self) -> None:
        """The size and the hash of a file."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """What is in the repository, or a file of it."""
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        model = PICKLED if PICKLED in path else MODEL
        files = f"/{model}/resolve/{COMMIT}/"
        stored = [file for file in self.folder.iterdir() if model == MODEL or file.suffix != ".safetensors"]
        if path == f"/api/models/{model}/revision/main":
            names = [{"rfilename": file.name} for file in stored]
            content = json.dumps({"id": model, "sha": COMMIT, "siblings": names}).encode()
        elif path == f"/api/models/{model}/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT} for file in stored
            ]
            content = json.dumps(entries).encode()
        elif path.startswith(files):
            content = (self.folder / path.removeprefix(files)).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(folder: Path, cache: Path) -> None:
    """Print what is found on the hub, in its cache, and without either."""
    Hub.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
    }
    from harness.config.starting import StartError
    from harness.model.sources import find_source

    def found(name: str) -> str:
        try:
            return find_source(name).weights.sha256
        except StartError as error:
            return str(error)

    result: dict[str, object] = {"downloaded": found(MODEL), "asked": list(Hub.asked), "unknown": found("someone/else")}
    result["pickled"] = found(PICKLED)
    server.shutdown()
    server.server_close()
    result |= {"cached": found(MODEL), "unreachable": found("someone/else"), "torch": "torch" in sys.modules}
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
