"""A few endpoints of the Hugging Face hub's HTTP API on loopback: listing, path info, and ranged downloads.

Stands in for the hub in tests: real HTTP and the real client, a made-up service. Large-file hashes are reported as
for LFS files; the Xet transfer protocol is not imitated. Of access control: `closed` answers a repository's requests
with a status and headers, unless they carry the token that opens it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self._refused():
            return
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
        if match and self._repo(match[1]):
            return self._json({"id": match[1], "sha": COMMIT, "siblings": [], "private": False})
        if (match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", path)) and self._repo(match[1]):
            return self._tree(match[1], match[2] or "")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if match and match[2] in self._repo(match[1]):
            return self._content(self._repo(match[1])[match[2]])
        self._missing()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self._refused():
            return
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/[^/]+", unquote(urlsplit(self.path).path))
        if match and self._repo(match[1]):
            fields = json.loads(body) if body.startswith("{") else parse_qs(body)
            files = self._repo(match[1])
            return self._json([_described(p, files[p]) for p in fields["paths"] if p in files])
        self._missing()

    def _refused(self) -> bool:
        """Answer with the repository's refusal, as the hub words it, where the token does not open it."""
        for name, (status, headers, token) in self.server.closed.items():
            if name in self.path and self.headers.get("Authorization") != f"Bearer {token}":
                self._send(status, b"{}", headers)
                return True
        return False

    def _repo(self, name: str) -> dict[str, bytes]:
        return self.server.repos.get(name, {})

    def _tree(self, name: str, folder: str) -> None:
        prefix = folder.rstrip("/") + "/" if folder else ""
        below = {p: c for p, c in self._repo(name).items() if p.startswith(prefix)}
        if not below:
            return self._missing("EntryNotFound")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        here = [_described(p, c) for p, c in below.items() if recursive or "/" not in p.removeprefix(prefix)]
        parents = {p.removeprefix(prefix).rsplit("/", 1)[0] for p in below if "/" in p.removeprefix(prefix)}
        folders = {
            "/".join(p.split("/")[: n + 1]) for p in parents for n in range(p.count("/") + 1 if recursive else 1)
        }
        self._json([{"type": "directory", "path": prefix + f, "oid": "0" * 40, "size": 0} for f in folders] + here)

    def _content(self, content: bytes) -> None:
        status, first, last = 200, 0, len(content) - 1
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range", "")):
            status, first, last = 206, int(match[1]), min(int(match[2] or last), last)
        self.server.ranges.append((first, last))
        self.send_response(status)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[first : last + 1])

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str = "RepoNotFound") -> None:
        self._send(404, b"{}", {"X-Error-Code": code})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        self.server.calls.append(self.path)


def _described(path: str, content: bytes) -> dict[str, object]:
    sha256 = hashlib.sha256(content).hexdigest()
    commit = {"id": COMMIT, "title": "t", "date": "2026-01-01T00:00:00.000Z"}
    lfs = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return {"type": "file", "path": path, "size": len(content), "oid": "0" * 40, "lfs": lfs, "lastCommit": commit}


@contextlib.contextmanager
def serve(repos: dict[str, dict[str, bytes]]) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serve `repos` (name -> path -> content) on a free port; `.url`, `.calls` and `.ranges` tell what went on."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.repos, server.calls, server.ranges, server.closed = repos, [], [], {}
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
