"""pyright as a language server: one process for all environments of this one, asked over standard input and output."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from ..errors import EnvFailure


class AnalyserLost(EnvFailure):
    """Raised when the language server ended or stopped answering; the next program starts another."""


class Server:
    """A language server (basedpyright) that reads programs as unsaved documents; none is run."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="turnwise-pyright-")
        root = Path(self._folder.name)
        # Nothing of this machine may count: no installed package but the standard library's stubs.
        settings = {
            "typeCheckingMode": "standard",
            "venvPath": str(root),
            "venv": "none",
            "pythonVersion": "3.11",
        }
        (root / "pyrightconfig.json").write_text(json.dumps(settings))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from basedpyright.langserver import main; main()", "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=root,
        )
        self._next = 0
        self._root = root.as_uri()
        folders = [{"uri": self._root, "name": "programs"}]
        capabilities = {"textDocument": {"diagnostic": {}}, "workspace": {"configuration": True}}
        self._ask(
            "initialize",
            {
                "processId": os.getpid(),
                "rootUri": self._root,
                "workspaceFolders": folders,
                "capabilities": capabilities,
            },
        )
        self._tell("initialized", {})

    def errors(self, program: str) -> int:
        """Number of errors in a program."""
        self._next += 1
        uri = f"{self._root}/program{self._next}.py"
        document = {"uri": uri, "languageId": "python", "version": 1, "text": program}
        self._tell("textDocument/didOpen", {"textDocument": document})
        report = self._ask("textDocument/diagnostic", {"textDocument": {"uri": uri}})
        self._tell("textDocument/didClose", {"textDocument": {"uri": uri}})
        return sum(item.get("severity") == 1 for item in report["items"])

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _tell(self, method: str, parameters: Any) -> None:
        self._write({"jsonrpc": "2.0", "method": method, "params": parameters})

    def _ask(self, method: str, parameters: Any) -> Any:
        self._next += 1
        wanted = self._next
        self._write({"jsonrpc": "2.0", "id": wanted, "method": method, "params": parameters})
        while True:
            message = self._read()
            if message.get("id") == wanted and "method" not in message:
                if "error" in message:
                    raise AnalyserLost(f"the language server refused {method}: {message['error']}")
                return message["result"]
            if "id" in message:  # it asks us: for settings, or whether we take a capability
                answer: Any = None
                if message["method"] == "workspace/configuration":
                    # No interpreter, and so no installed package: the number is the same on every machine.
                    paths = {"pythonPath": f"{self._folder.name}/none"}
                    answer = [
                        paths if i.get("section") == "python" else None for i in message["params"]["items"]
                    ]
                self._write({"jsonrpc": "2.0", "id": message["id"], "result": answer})

    def _write(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self._process.stdin.flush()
        except OSError as error:
            raise AnalyserLost(f"the language server is gone: {error}") from error

    def _read(self) -> dict[str, Any]:
        stream = self._process.stdout
        assert stream is not None
        size = 0
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
        body = stream.read(size)
        if not size or len(body) < size:
            raise AnalyserLost("the language server ended")
        message: dict[str, Any] = json.loads(body)
        return message


_servers: dict[int, Server] = {}
_lock = Lock()


@lru_cache(maxsize=4096)
def errors(program: str) -> int:
    """Number of errors that pyright finds in a program, asked once for each.

    Raises:
        AnalyserLost: the language server broke.
    """
    with _lock:
        server = _servers.get(os.getpid())
        if server is None or not server.alive():
            server = _servers[os.getpid()] = Server()
            atexit.register(server.close)
        try:
            return server.errors(program)
        except (AnalyserLost, ValueError, KeyError) as error:
            server.close()
            raise AnalyserLost(str(error)) from error
