"""Digests see content and nothing else; a failed write leaves what was there."""

from __future__ import annotations

import errno
import json

import pytest

from flashtrail.base import provenance
from flashtrail.base.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package laid out like ours: script -> rollouts.shard -> (lazily) serving.client; policies apart."""
    root = tmp_path / "flashtrail"
    files = {
        "__init__.py": "",
        "base/__init__.py": "",
        "base/errors.py": "",
        "rollouts/__init__.py": "",
        "rollouts/shard.py": "from flashtrail.base.errors import UserError\nfrom . import loop\n",
        "rollouts/loop.py": "def run():\n    from flashtrail.serving import client\n",
        "serving/__init__.py": "",
        "serving/client.py": "",
        "policies/pi0/__init__.py": "",
        "policies/pi0/engine.py": "import flashtrail.base.errors\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    script = tmp_path / "script.py"
    script.write_text("import flashtrail.rollouts.shard\n")
    monkeypatch.setattr(provenance, "PACKAGE_ROOT", root)
    provenance._package_imports.cache_clear()
    provenance._files_of.cache_clear()
    yield root, script
    provenance._package_imports.cache_clear()
    provenance._files_of.cache_clear()


def test_closure_follows_relative_and_lazy_imports_and_stops_there(package):
    root, script = package
    names = {str(p.relative_to(root)) for p in provenance.module_closure([script])}
    assert {"rollouts/shard.py", "rollouts/loop.py", "serving/client.py", "base/errors.py"} <= names
    assert not any(name.startswith("policies/") for name in names)


def test_code_digest_changes_with_an_imported_module_only(package):
    root, script = package

    def digest() -> str:
        provenance._package_imports.cache_clear()
        return provenance.code_digest(script)

    before = digest()
    (root / "policies/pi0/engine.py").write_text("x = 1\n")
    assert digest() == before
    (root / "serving/client.py").touch()
    assert digest() == before
    (root / "serving/client.py").write_text("x = 1\n")
    assert digest() != before


def test_code_digest_sees_the_data_beside_a_module(package):
    root, script = package
    digests = [provenance.code_digest(script)]
    for place in ("rollouts/static/page.css", "policies/static/page.css", "rollouts/__pycache__/loop.pyc"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text("a { color: red }")
        digests.append(provenance.code_digest(script))
    (root / "rollouts/static/page.css").write_text("a { color: blue }")
    digests.append(provenance.code_digest(script))
    assert digests[1] == digests[2] == digests[3] and len({digests[0], digests[1], digests[4]}) == 3


def test_failed_write_leaves_the_old_file_and_no_leftover(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), provenance.write_atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_directories_are_replaced_whole(tmp_path):
    target = tmp_path / "artifact"
    for content in ("one", "two"):
        with provenance.write_atomic(target) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in target.iterdir()] == ["two"]


def test_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match="disk full while writing"), provenance.write_atomic(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_place_that_cannot_be_is_named_as_it_was_given(tmp_path):
    for target in ("/proc/nope", "/proc/nope/deeper"):
        with pytest.raises(UserError, match=f"{target} cannot be made there"), provenance.write_atomic(target) as fresh:
            fresh.mkdir(parents=True)
    with pytest.raises(PermissionError) as refused, provenance.write_atomic(tmp_path / "no") as fresh:
        raise PermissionError(errno.EACCES, "Permission denied", f"{fresh}/task0")
    assert refused.value.filename == str(tmp_path / "no")


def test_json_refuses_nan_and_is_stable(tmp_path):
    with pytest.raises(ValueError):
        provenance.json_dump({"a": float("nan")}, tmp_path / "x.json")
    provenance.json_dump({"b": 1, "a": [2]}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [2], "b": 1}
    assert provenance.digest_json({"a": 1, "b": 2}) == provenance.digest_json({"b": 2, "a": 1})


def test_a_notebook_counts_what_its_cells_import(package):
    root, _ = package
    cells = [
        {"cell_type": "markdown", "source": "import flashtrail.policies.pi0.engine"},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "from flashtrail.serving import client"]},
    ]
    notebook = root.parent / "chapter.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    names = {str(p.relative_to(root)) for p in provenance.module_closure([notebook])}
    assert names == {"serving/__init__.py", "serving/client.py"}
