"""A bundle's RO-Crate against the Workflow Run RO-Crate profile, by the validator of the RO-Crate community, offline.

The validator ships its profiles and fetches one thing, the JSON-LD context that a crate names; its cache is filled from
resources/ro-crate/ first. A tool of tests and of `make audit-crate`: nothing at run time needs it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.record import crate

PROFILE = "workflow-run-crate"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
CONTEXT_FILE = Path(__file__).resolve().parents[1] / "resources" / "ro-crate" / "context-1.1.json"


def problems(bundle: str | Path, severity: str = "REQUIRED") -> list[str]:
    """Return what the crate of a bundle lacks, at this severity (REQUIRED or RECOMMENDED) and above."""
    from rocrate_validator import services
    from rocrate_validator.models import Severity, ValidationSettings

    if not (Path(bundle) / crate.NAME).is_file():
        raise UserError(f"{bundle} has no {crate.NAME}: make bundle first")
    with tempfile.TemporaryDirectory(prefix="flashtrail-crate-") as scratch:
        cache = Path(scratch) / "cache"
        _fill(cache)
        settings = ValidationSettings(
            rocrate_uri=str(Path(bundle).resolve()),
            profile_identifier=PROFILE,
            requirement_severity=Severity[severity],
            cache_path=cache,
            offline=True,
        )
        result = services.validate(settings)
        return [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues()]


def _fill(cache: Path) -> None:
    """Put the context into the validator's cache as if it had been fetched."""
    import requests
    from requests.adapters import BaseAdapter
    from requests_cache import CachedSession

    class Local(BaseAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            from urllib3 import HTTPResponse

            raw = HTTPResponse(
                CONTEXT_FILE.open("rb"), {"Content-Type": "application/ld+json"}, 200, preload_content=False
            )
            return requests.adapters.HTTPAdapter().build_response(request, raw)

        def close(self) -> None:
            """Nothing is open."""

    with CachedSession(cache_name=str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Local())
        session.get(CONTEXT)


def main(words: list[str]) -> int:
    """Print what a bundle's crate lacks; 1 where the profile requires it."""
    if len(words) != 1:
        raise UserError("usage: python tools/validation.py BUNDLE")
    required = problems(words[0])
    for line in required or ["the RO-Crate meets every requirement of the Workflow Run RO-Crate profile 0.5"]:
        print(line)
    return int(bool(required))


if __name__ == "__main__":
    sys.exit(commands.run(lambda: main(sys.argv[1:]), "validation"))
