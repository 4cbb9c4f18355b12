"""A stand-in for both hubs: a server on this machine that gives the files of folders, and takes what is uploaded."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Hub", "serve_hub"]

_COMMIT = "0" * 40


@dataclass
class Hub:
    """What the server holds, and what it has seen."""

    models: Mapping[str, Path]
    """The folder of each model, by its name ``owner/name``."""
    address: str = ""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    created: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What repositories were made with, by the name."""
    uploaded: dict[str, bytes] = field(default_factory=dict)
    """Content of each file that was committed, by its path."""
    tokens: set[str] = field(default_factory=set)
    """Tokens that came with requests."""
    fails_with: int | None = None
    """HTTP status of every answer; None: the answers are right."""

    def files(self, name: str) -> dict[str, Path]:
        folder = self.models[name]
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    # ---------------------------------------------------------------------------------------------------------- answers

    def _answer(self) -> None:
        place = urlsplit(self.path)
        self.hub.asked.append(f"{self.command} {place.path}")
        if token := self.headers.get("Authorization", "").removeprefix("Bearer "):
            self.hub.tokens.add(token)
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.fails_with is not None:
            self._send_json({"error": "no", "Code": 1, "Success": False, "Message": "no"}, self.hub.fails_with)
            return
        parts = place.path.strip("/").split("/")
        asked = {key: values[0] for key, values in parse_qs(place.query).items()}
        if parts[:2] == ["api", "v1"]:
            self._answer_as_modelscope(parts[2:], asked)
        else:
            self._answer_as_hugging_face(parts)

    def _answer_as_hugging_face(self, parts: list[str]) -> None:
        if parts[:3] == ["api", "repos", "create"]:
            made = json.loads(self._body)
            name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
            self.hub.created[name] = made
            self._send_json({"url": f"{self.hub.address}/{name}", "id": name})
        elif parts == ["api", "validate-yaml"]:
            self._send_json({"errors": [], "warnings": []})
        elif parts[:2] == ["api", "models"] and "preupload" in parts:
            files = json.loads(self._body)["files"]
            self._send_json(
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]}
            )
        elif parts[:2] == ["api", "models"] and "commit" in parts:
            for line in self._body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.hub.uploaded[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.hub.address}/{'/'.join(parts[2:4])}/commit/{_COMMIT}"
            self._send_json({"commitUrl": url, "commitOid": _COMMIT, "hookOutput": ""})
        elif parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in self.hub.models:
            name = "/".join(parts[2:4])
            files = self.hub.files(name)
            if parts[4:5] == ["tree"]:
                sizes = {file: path.stat().st_size for file, path in files.items()}
                self._send_json(
                    [{"type": "file", "path": file, "size": size, "oid": _COMMIT} for file, size in sizes.items()]
                )
            else:
                siblings = [{"rfilename": file} for file in files]
                self._send_json({"id": name, "modelId": name, "sha": _COMMIT, "siblings": siblings})
        elif len(parts) > 4 and parts[2] == "resolve" and "/".join(parts[:2]) in self.hub.models:
            self._send_file(self.hub.files("/".join(parts[:2])).get("/".join(parts[4:])))
        else:
            self._send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _answer_as_modelscope(self, parts: list[str], asked: dict[str, str]) -> None:
        name = "/".join(parts[1:3])
        if parts == ["models"] and self.command == "POST":
            made = json.loads(self._body)
            if self.hub.created.setdefault(f"{made['Path']}/{made['Name']}", made) is made:
                self._send_json({"Code": 200, "Success": True, "Data": {"Name": made["Name"]}})
            else:  # an upload tries to make it again
                self._send_json({"Code": 10020101001, "Success": False, "Message": "already exists"}, 400)
        elif parts[-1:] == ["batch"]:
            objects = json.loads(self._body)["objects"]
            self._send_json(
                {"Code": 200, "Success": True, "Data": {"objects": [{**each, "actions": {}} for each in objects]}}
            )
        elif "commit" in parts:
            for action in json.loads(self._body)["actions"]:
                self.hub.uploaded[action["path"]] = base64.b64decode(action["content"])
            self._send_json({"Code": 200, "Success": True, "Data": {"commit_id": _COMMIT, "oid": _COMMIT}})
        elif name not in self.hub.models:
            self._send_json({"Code": 10010205001, "Success": False, "Message": "record not found"}, 404)
        elif parts[3:] == ["repo", "files"]:
            entries = [
                {
                    "Path": file,
                    "Name": Path(file).name,
                    "Type": "blob",
                    "Size": path.stat().st_size,
                    "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
                for file, path in self.hub.files(name).items()
            ]
            self._send_json({"Code": 200, "Success": True, "Data": {"Files": entries}})
        elif parts[3:] == ["repo"]:
            self._send_file(self.hub.files(name).get(asked["FilePath"]))
        else:
            self._send_json({"Code": 200, "Success": True, "Data": {"Name": name}})

    # ------------------------------------------------------------------------------------------------------------- HTTP

    def _send_json(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send_file(self, path: Path | None) -> None:
        if path is None:
            self._send_json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        self._send(content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": _COMMIT})

    def _send(self, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve_hub(models: Mapping[str, Path], *, fails_with: int | None = None) -> Iterator[Hub]:
    """Serve folders as models until the block is left, or answer everything with an HTTP status that is an error."""
    hub = Hub(models, fails_with=fails_with)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
