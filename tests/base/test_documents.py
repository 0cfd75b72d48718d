"""YAML as people hand it in: read, or refused in one line that names file, line and remedy."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.claims import claims, published
from flashtrail.experiment import config

ROOT = Path(__file__).parents[2]
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: 7\nseed: 8\n", " is not valid YAML (line 2): duplicate key 'seed', first in line 1"),
        (b"arms:\n  clean: {a: 1}\n\n  clean: {a: 2}\n", " is not valid YAML (line 4): duplicate key 'clean'"),
        (b"arms: {clean: {a: 1, a: 2}}\n", "duplicate key 'a'"),
        ("seed: 7\n# été\n".encode("latin-1"), ":2: byte 0xe9 is not UTF-8: save it as UTF-8"),
        ("seed: 7\n".encode("utf-16"), ":1: byte 0xff is not UTF-8"),
        (bytes(range(256)), "is not UTF-8"),
        (b"a: \x00\n", "is not valid YAML"),
        (b"- a\n- b\n", "holds a list at its top, not keys such as `seed: 7`"),
        (b"seed\n", "holds text at its top"),
        (b"7\n", "holds a number at its top"),
        (b"[]\n", "holds a list at its top"),
        (b"a:\n\tb: 1\n", " is not valid YAML (line 2): indent with spaces, not with tabs"),
        (b"a: [\n", "is not valid YAML"),
        (b"a: *nobody\n", " is not valid YAML (line 1): found undefined alias"),
        (b"a: &a [*a]\n", " is not valid YAML (line 1): an alias (*name) holds itself"),
        (b"a: &a {b: *a}\n", "an alias (*name) holds itself"),
        (b"a: 2026-99-99\n", "a value cannot be read"),
        (b"a: !!bool maybe\n", "a value cannot be read"),
        (b"a: " + b"9" * 5000, "a value cannot be read"),
        (
            b"a: !!python/object/apply:os.system [ls]\n",
            " (line 1): the tag !!python/object/apply:os.system is not allowed: delete it and write a plain value",
        ),
        (b"a: 1\n? !mine b\n: 2\n", " (line 2): the tag !mine is not allowed: delete it and write a plain value"),
        (b"? [a, b]\n: 1\n", "found unhashable key"),
        (b"a: " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        (LAUGHS.encode(), "its aliases (*name) multiply to over 100000 values"),
        (b"a: 1\n---\nb: 2\n", "expected a single document"),
        (b"#" * (1 << 21), "is larger than 1 MiB"),
    ],
)
def test_what_is_no_plain_mapping_is_one_line(tmp_path, content, words):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        documents.mapping(path)
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)


def test_the_example_of_a_key_fits_the_document(tmp_path):
    path = tmp_path / "file"
    path.write_text("arm,task\na,b\n")
    with pytest.raises(UserError, match="holds text at its top, not keys such as `claims:`"):
        claims.load(path)
    with pytest.raises(UserError, match="holds text at its top, not keys such as `sources:`"):
        published.load(path)


@pytest.mark.parametrize(
    ("written", "meant"), [("010", "8"), ("-07", "-7"), ("1:30", "90"), ("1:30.5", "90.5"), ("00", "0")]
)
def test_a_number_that_yaml_reads_as_another_number_is_refused(written, meant):
    with pytest.raises(UserError, match=f"line 2.*: {written} means {meant} in YAML: write {meant}, or quote it"):
        documents.parsed(f"seed: 0\nepisodes: [{written}]", "a.yaml")
    assert documents.parsed(f"episodes: '{written}'", "a.yaml") == {"episodes": written}
    assert documents.parsed("[0, 0.5, 0x1f, 1_000, 0o10]", "a.yaml") == [0, 0.5, 31, 1000, "0o10"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("1e9", "1e9 is text to YAML, not a whole number: write 1000000000"),
        ("1e99", "'1e99' is not a whole number"),
        ("ten", "'ten' is not a whole number"),
        ("1.5", "1.5 is not a whole number"),
    ],
)
def test_a_number_that_yaml_or_python_reads_as_another_kind_is_said_with_its_remedy(tmp_path, said, words):
    path = tmp_path / "overlay.yaml"
    path.write_text(f"arms: {{clean: {{episodes: {said}}}}}\n")
    with pytest.raises(UserError) as caught:
        config.load(ROOT / "config.yaml", path)
    assert str(caught.value) == f"config: arms.clean.episodes: {words}"


def test_anchors_and_merge_keys_are_read_and_may_be_overridden(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, y: 3}\nd: [*b, *b]\n")
    read = documents.mapping(path)
    assert read["b"] == {"x": 1, "y": 2} and read["c"] == {"x": 1, "y": 3} and read["d"] == [read["b"]] * 2


def test_an_empty_file_has_no_keys_and_a_byte_order_mark_or_crlf_is_no_matter(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# nothing\n")
    assert documents.mapping(path) == {}
    path.write_bytes(b"\xef\xbb\xbfseed: 7\r\ntasks: '0'\r\n")
    assert documents.mapping(path) == {"seed": 7, "tasks": "0"}


def test_what_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(UserError, match="Is a directory"):
        documents.read(tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        documents.read(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("load", [claims.load, published.load])
def test_claims_and_published_figures_are_read_the_same_way(tmp_path, load):
    path = tmp_path / "x.yaml"
    path.write_text("version: 1\nversion: 2\n")
    with pytest.raises(UserError, match="duplicate key 'version'"):
        load(path)
    path.write_text("- a\n")
    with pytest.raises(UserError, match=r"x\.yaml"):
        load(path)


_FRAGMENTS = st.sampled_from(
    [
        "a",
        "b",
        ": ",
        "- ",
        "\n",
        "  ",
        "\t",
        "&x ",
        "*x",
        "{",
        "}",
        "[",
        "]",
        ",",
        "? ",
        "<<: *x",
        "!!int ",
        "!!set ",
        "'",
        "!!omap ",
        "!!pairs ",
        "!!binary ",
        "!!timestamp ",
        "!!float ",
        "|",
        ">",
        "#",
        "%YAML 1.1\n",
        "---\n",
        "é",
        "\x85",
        "�",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(_FRAGMENTS, max_size=25).map("".join), st.text(max_size=60)))
def test_any_text_is_data_or_one_line(text):
    try:
        documents.parsed(text, "x")
    except UserError as error:
        assert "\n" not in str(error)


def test_libyamls_parser_reads_what_pyyamls_reads():
    """Texts cut out of shipped files and damaged: what the quick loader takes, the other takes for the same data."""
    random = Random(7)
    texts = [(ROOT / name).read_text()[:6000] for name in ("config.yaml", "claims.yaml")]
    taken = 0
    for _ in range(1500):
        start, place = random.randrange(5000), random.randrange(200)
        text = random.choice(texts)[start : start + 200]
        text = text[:place] + random.choice("\t\n -:[]{},#&*!|>'\"%@`?~=0\ufeff\x85\u2028") + text[place + 1 :]
        try:
            found = documents.parsed(text, "x")
        except UserError:
            continue
        taken += 1
        assert repr(found) == repr(documents._parsed(yaml.SafeLoader, text, "x")), text
    assert taken > 150 and documents._QUICK is not None


@pytest.mark.parametrize("text", ["[" * 60_000, "- " * 60_000, "{a: " * 60_000, "? " * 60_000])
def test_a_text_that_is_nested_too_deeply_is_refused_and_ends_no_process(text):
    with pytest.raises(UserError, match="nested too deeply"):
        documents.parsed(text, "x")
