"""The forms in which a CSV file comes: what comes out is always a table or one line that names file and row."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports import stages

from flashtrail.base.errors import UserError
from flashtrail.imports.cells import BadRow, flag, number, whole
from flashtrail.imports.columns import Columns
from flashtrail.imports.csv_run import CsvRun
from flashtrail.imports.writing import write
from flashtrail.tables import schemas


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The stages' files."""
    root = tmp_path_factory.mktemp("stages")
    stages.write(root, trials=2)
    return root


def outcome(content: bytes, root: Path) -> dict[str, list] | str:
    """Import one file and write it; return its rows, or the one line that says why not."""
    file = root / "made.csv"
    file.write_bytes(content)
    try:
        found = CsvRun([file], "pi0", 7, arm="a").read()
        if found.problems:
            assert all(str(p).startswith("made.csv:") and "\n" not in str(p) for p in found.problems)
        write(found, root / "out", replace=True)
        return found.rows
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)


def episodes(made: Path) -> str:
    return stages.path(made, "stage4_episode").read_text()


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: text.replace(",", "|").encode(),
        lambda text: text.replace("\r\n", "\n").encode(),
        lambda text: text.replace("\r\n", "\r").encode(),
        lambda text: text.replace("\r\n", "\n\n").encode(),
        lambda text: text.replace("no failure", '"no\nfailure"').encode(),
        lambda text: text.replace("True", "TRUE").replace("False", "f").encode(),
        lambda text: text.replace("True", "1.0").replace("False", "0").encode(),
        lambda text: text.replace("success,steps", " success ,steps").encode(),
    ],
)
def test_the_same_rows_come_from_every_usual_form(made: Path, tmp_path: Path, encode) -> None:
    plain, other = outcome(episodes(made).encode(), tmp_path), outcome(encode(episodes(made)), tmp_path)
    assert isinstance(plain, dict) and isinstance(other, dict)
    assert [{**row, "run_id": ""} for row in other["episodes"]] == [{**row, "run_id": ""} for row in plain["episodes"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "is empty"),
        (lambda text: "\ufeff\r\n", "is empty"),
        (lambda text: text.splitlines()[0], "has a header and no rows"),
        (lambda text: text.replace("infer_calls", "success"), "two columns 'success'"),
        (lambda text: text.replace(",", ":"), "names no known column"),
        (lambda text: text.replace("no failure", '"no failure', 1), "not readable as CSV"),
        (lambda text: text.replace("no failure", "x" * 200_000, 1), "not readable as CSV"),
        (lambda text: text.replace("episode_idx", "number"), "has no column 'episode_idx'.*--map episode=THEIRS"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(made: Path, tmp_path: Path, change, said: str) -> None:
    found = outcome(change(episodes(made)).encode(), tmp_path)
    assert isinstance(found, str)
    with pytest.raises(UserError, match=said):
        raise UserError(found)


def test_latin_1_is_named_with_its_line(made: Path, tmp_path: Path) -> None:
    lines = episodes(made).splitlines()
    lines[2] = lines[2].replace("log", "caf\u00e9")
    found = outcome("\n".join(lines).encode("latin-1"), tmp_path)
    assert found == f"{tmp_path / 'made.csv'}:3: not UTF-8: save the file as UTF-8"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("1e20", "more than the 2147483647"),
        ("99999999999999999999", "more than the 2147483647"),
        ("9" * 5000, "not finite"),
        ("1e400", "not finite"),
        ("inf", "not finite"),
        ("nan", "not a number"),
        ("-3", "not a count"),
        ("12.5", "not a count"),
        ("True", "not a number"),
        ("1_000", "not a number"),
        ("1,5", "write a decimal point"),
        ("twelve", "not a number"),
    ],
)
def test_a_count_that_no_table_holds_is_named_by_file_and_row(made: Path, tmp_path: Path, cell: str, said: str) -> None:
    rows = list(csv.DictReader(io.StringIO(episodes(made))))
    rows[1]["steps"] = cell
    stages.write_rows(tmp_path / "made.csv", list(rows[0]), rows)
    found = CsvRun([tmp_path / "made.csv"], "pi0", 7).read()
    assert len(found.problems) == 1 and len(found.rows["episodes"]) == len(rows) - 1
    line = str(found.problems[0])
    assert line.startswith("made.csv:3: steps is ") and said in line and len(line) < 200


def test_a_row_of_another_length_is_named(made: Path, tmp_path: Path) -> None:
    lines = episodes(made).splitlines()
    lines[2:4] = [lines[2] + ",more", lines[3].rsplit(",", 2)[0]]
    (tmp_path / "made.csv").write_text("\n".join(lines))
    found = CsvRun([tmp_path / "made.csv"], "pi0", 7).read()
    said = [f"made.csv:{line}: has {cells} cells, the header 13" for line, cells in ((3, 14), (4, 11))]
    assert [str(problem) for problem in found.problems] == said


@pytest.mark.parametrize("word", ["true", "TRUE", "True", "t", "Y", "yes", "on", "1", "1.0", " true "])
def test_a_truth_value_in_any_spelling(word: str) -> None:
    assert flag({"x": word}, "x") is True


_WORDS = {True: ["true", "t", "yes", "y", "on", "1", "1.0"], False: ["false", "f", "no", "n", "off", "0", "0.0"]}
_case = st.sampled_from([str.lower, str.upper, str.title])
_blank = st.sampled_from(["", " ", "\t"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.booleans(), place=st.integers(0, 6), case=_case, blank=_blank)
def test_success_is_read_as_documented_in_every_spelling(made, tmp_path: Path, value, place, case, blank) -> None:
    rows = list(csv.DictReader(io.StringIO(episodes(made))))
    rows[0] |= {"completed": "yes", "success": blank + case(_WORDS[value][place]) + blank}
    stages.write_rows(tmp_path / "made.csv", list(rows[0]), rows)
    found = CsvRun([tmp_path / "made.csv"], "pi0", 7).read()
    assert found.problems == [] and found.rows["episodes"][0]["success"] is value


def numbers(name: str) -> list[str]:
    """The columns of a stage's file that hold numbers, as its rows are written; truth values of 1 and 0 are none."""
    ours = {"steps", "infer_calls", "task_id", "episode_idx", "infer_id", "accepted_prefix_len", "chunk_exec_len"}
    ours |= {"policy_time_ms", "serve_time_ms", "client_roundtrip_ms", "stage7_wrist_health_std"}
    ours |= {"stage7_wrist_health_range", "stage7_cache_age_queries"}
    return [column for column in stages.HEADERS[name].split(",") if column in ours]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), word=st.sampled_from(["true", "false"]), case=_case, blank=_blank)
def test_a_truth_value_in_a_column_of_numbers_is_one_line(made: Path, tmp_path: Path, data, word, case, blank) -> None:
    name = data.draw(st.sampled_from(sorted(stages.HEADERS)))
    column = data.draw(st.sampled_from(numbers(name)))
    rows = list(csv.DictReader(io.StringIO(stages.path(made, name).read_text())))
    place = data.draw(st.integers(0, len(rows) - 1))
    rows[place][column] = cell = blank + case(word) + blank
    stages.write_rows(tmp_path / "made.csv", list(rows[0]), rows)
    files = [tmp_path / "made.csv"]
    if name.endswith("infer") and not name.startswith("stage6"):
        files.append(stages.path(made, name.replace("infer", "episode")))
    constants = {"suite": "libero_goal"} if name[:6] in ("stage5", "stage7") else {}
    problems = [str(p) for p in CsvRun(files, "pi0", 7, named=Columns(constants=constants)).read().problems]
    assert problems[0].startswith(f"made.csv:{place + 2}: {column} is {cell!r}, not a number")


@pytest.mark.parametrize("value", [10**400, True, [1], {}, "1e999", float("inf")])
def test_a_json_value_that_is_no_number_is_a_bad_row(value: object) -> None:
    with pytest.raises(BadRow):
        number({"x": value}, "x")


def test_a_seed_beyond_double_precision_stays_exact() -> None:
    assert whole({"x": str(2**63 - 1)}, "x", 2**63 - 1) == 2**63 - 1


_cell = st.one_of(
    st.sampled_from(["", "0", "1", "2", "True", "False", "nan", "inf", "-1", "1e20", "1e400", "1,5", "1_0", "draft"]),
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
)
_columns = st.lists(
    st.one_of(st.sampled_from(sorted(Columns().known)), st.text(max_size=5)), min_size=1, max_size=12, unique=False
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=_columns, data=st.data(), delimiter=st.sampled_from(",;\t|:"))
def test_any_table_is_imported_or_refused_in_one_line(tmp_path: Path, header, data, delimiter) -> None:
    rows = data.draw(st.lists(st.lists(_cell, min_size=0, max_size=len(header) + 1), max_size=5))
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, escapechar="\\").writerows([header, *rows])
    outcome(text.getvalue().encode("utf-8", "replace"), tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cells_under_the_real_headers_are_imported_or_refused_in_one_line(tmp_path: Path, data) -> None:
    name = data.draw(st.sampled_from(sorted(stages.HEADERS)))
    header = stages.HEADERS[name].split(",")
    rows = data.draw(st.lists(st.fixed_dictionaries({column: _cell for column in header}), min_size=1, max_size=3))
    stages.write_rows(tmp_path / "x.csv", header, [{k: v.replace("\x00", "") for k, v in row.items()} for row in rows])
    outcome((tmp_path / "x.csv").read_bytes(), tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), place=st.floats(0, 1), cut=st.booleans())
def test_a_damaged_file_is_imported_or_refused_in_one_line(made: Path, tmp_path: Path, content, place, cut) -> None:
    whole_file = episodes(made).encode()
    at = int(place * len(whole_file))
    outcome(whole_file[:at] + content + (b"" if cut else whole_file[at:]), tmp_path)


def test_what_is_kept_despite_bad_rows_can_be_read_again(made: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(episodes(made))))
    rows[0]["success"] = "nan"
    stages.write_rows(tmp_path / "made.csv", list(rows[0]), rows)
    found = CsvRun([tmp_path / "made.csv"], "pi0", 7, arm="a").read()
    write(found, tmp_path / "out")
    table = schemas.read_table(tmp_path / "out/tables/a/episodes.parquet", schemas.EPISODES)
    said = schemas.read_metadata(tmp_path / "out/tables/a/episodes.parquet")["imported"]
    assert len(table) == len(rows) - 1
    assert said == f"CSV file made.csv (left out because they could not be read: 1 of {len(rows)} episodes)"
