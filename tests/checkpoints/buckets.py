"""A Cloud Storage emulator (gcp-storage-emulator, in memory) on loopback, filled through its own upload API."""

from __future__ import annotations

import contextlib
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping

from gcp_storage_emulator.server import create_server


@contextlib.contextmanager
def serve(buckets: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """Serve bucket -> object name -> content; yields the endpoint for STORAGE_EMULATOR_HOST."""
    names = list(buckets)
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=names[0])
    server.start()
    try:
        url = f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
        for bucket in names[1:]:
            _post(f"{url}/storage/v1/b", f'{{"name": "{bucket}"}}'.encode(), "application/json")
        for bucket, objects in buckets.items():
            for name, content in objects.items():
                put(url, bucket, name, content)
        yield url
    finally:
        server.stop()


def put(url: str, bucket: str, name: str, content: bytes) -> None:
    """Create or replace one object."""
    query = urllib.parse.urlencode({"uploadType": "media", "name": name})
    _post(f"{url}/upload/storage/v1/b/{bucket}/o?{query}", content, "application/octet-stream")


def _post(url: str, data: bytes, kind: str) -> None:
    request = urllib.request.Request(url, data=data, method="POST", headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=10) as reply:
        reply.read()
