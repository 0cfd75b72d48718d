"""Figures, tables, citation and summary of a finished run, as the commands write them for papers and colleagues."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pypdf
import pytest
from claims.simulated import CONTROL
from claims.test_running import SCRIPT, summarized
from imports import official
from matplotlib import pyplot as plt
from matplotlib.text import Text
from record import campaign
from report import test_data_chapter, test_limits_chapter, test_measured_chapter
from report.test_limits_chapter import layers
from report.test_metric_chapter import run as lift  # noqa: F401

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.claims.campaign import Campaign
from flashtrail.imports.official import read_run
from flashtrail.imports.writing import write
from flashtrail.record import reports, summary
from flashtrail.report import cards, figures, headline, page, plotting, table_formats, tables

GRID = {"grid": "wrist_grid", "fault": "zero", "view": "wrist", "parameter": "every", "severity": 4}
GRID |= {"guard": "none", "guard_kind": "none"}
# Tables of imports, of episodes that were verified, of rounds that shared a pass, of shared starts; and none of these.
ABSENT = {"printed", "policies", "verified", "verified-apart", "batching", "checkup-states", "drills-apart", "remedies"}
ABSENT |= {"alarms"}  # of an arm with five episodes of either end: claims/test_signal.py
ABSENT |= {"limits", "handoffs"}  # of such arms: test_limits_chapter.py, test_handoff_chapter.py
ABSENT |= {"metrics", "metrics-printed"}  # of a suite that records other criteria: test_metric_chapter.py


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A finished run with drills, a checkup, a grid, arms under a running clock and a set of demonstrations."""
    run = campaign.copy(tmp_path_factory.mktemp("papers") / "run", drilled=True)
    path = run / "results/logs/render_final.json"
    job = provenance.json_load(path)
    for ms in (0, 100, 200):
        _, files = summarized(run / "results", f"late_{ms}ms_20hz", ms, script=SCRIPT[:2])
        for kind, (file,) in files.items():
            job["input"][kind].append(str(Path(file).relative_to(run)))
        job["params"]["arms"].append(f"late_{ms}ms_20hz")
    provenance.json_dump(CONTROL, run / "results/control.json")
    job["input"]["control"] = "results/control.json"
    (run / "results/datasets").mkdir()
    long = {"tasks": ["push", name := "pick the red cube up and put it on the plate beside the stove"]}
    long |= {
        "each": [one | {"task": name} if one["task"] == "pick" else one for one in test_data_chapter.about()["each"]]
    }
    long |= {"action": [test_data_chapter.dim(f"observation.joint_{n}.position", saturates=["min"]) for n in range(14)]}
    test_data_chapter.given(run / "results/datasets", **long)
    job["input"] |= {"datasets": ["results/datasets/demos.json"], "dataset_sheets": ["results/datasets/demos.jpg"]}
    job["params"]["grids"] = {"wrist_zero_every4": GRID}
    layers(run / "results/measured")
    test_measured_chapter.formats(run / "results/measured")
    job["input"]["measured"] = [f"results/measured/{name}.json" for name in ("safety_layer", "precision_lift_nano")]
    provenance.json_dump(job, path)
    return run


@pytest.fixture(scope="module")
def runs(root) -> dict[str, Campaign]:
    with reports.opened([root]) as found:
        return found


def flashtrail(*words: object) -> int:
    return cli.main([str(word) for word in words])


# --- figures ---


@pytest.mark.parametrize("width", [3.0, 7.0])
def test_every_figure_fits_its_width_in_type_of_7_to_9_points(runs, lift, width, tmp_path):  # noqa: F811
    # Of these two one figure: their arms all lie on one place of the first.
    own = {"dial": test_measured_chapter.dial(tmp_path), "excursions": test_limits_chapter.made(tmp_path / "limits")}
    drawn = set()
    for run in (*runs.values(), lift, *own.values()):
        for name in [key for key, one in own.items() if one is run] or figures.names(run):
            drawn.add(name.partition("/")[0])
            with plotting.style(width):
                drawing = figures.drawn(run, name)
                drawing.draw_without_rendering()
            assert drawing.get_figwidth() == width
            texts = [text for text in _drawn(drawing) if text.get_visible() and text.get_text().strip()]
            boxes = {text: text.get_window_extent() for text in texts}
            for text, box in boxes.items():
                assert 7 <= text.get_fontsize() <= 9, (name, text)
                inside = box.x0 >= -1 and box.x1 <= drawing.bbox.width + 1 and box.y0 >= -1
                assert inside and box.y1 <= drawing.bbox.height + 1, f"{name}: {text.get_text()!r} is cut off"
            level = [text for text in texts if text.get_rotation() == 0]
            for one, other in combinations(level, 2):
                a, b = boxes[one].shrunk(0.8, 0.8), boxes[other].shrunk(0.8, 0.8)
                assert not a.overlaps(b), f"{name}: {one.get_text()!r} over {other.get_text()!r}"
            plt.close(drawing)
    assert drawn == set(figures.FIGURES)


def _drawn(drawing) -> list[Text]:
    """Return the figure's texts; of an axis only the ticks within its ends are drawn."""
    axes = [a for a in drawing.axes if a.get_visible()]
    axis = {id(axis): axis for a in axes for axis in (a.xaxis, a.yaxis)}.values()
    ticks = {id(label) for a in drawing.axes for x in (a.xaxis, a.yaxis) for label in x.findobj(Text)}
    shown = [tick.label1 if tick.label1.get_visible() else tick.label2 for x in axis for tick in x._update_ticks()]
    hidden = {id(text) for a in drawing.axes if not a.get_visible() for text in a.findobj(Text)}
    others = [text for text in drawing.findobj(Text) if id(text) not in ticks | hidden]
    return [*others, *(x.label for x in axis), *shown]


def test_a_page_shows_a_listed_figure_or_says_why_not(runs):
    shown = figures.shown(runs["final"], "endings", "How.")
    assert figures.FIGURES["endings"].line in shown and "<figcaption>How.</figcaption>" in shown
    assert figures.shown(Campaign({}), "stages", "") == page.paragraph("No profile was measured.", "note")


KINDS = ["pdf", "svg", "png"]
DRAW = f"""
import sys
from flashtrail import cli
for kind in {KINDS}:
    assert cli.main(["figure", "routes", sys.argv[1], "-o", f"{{sys.argv[2]}}.{{kind}}", "--width", "85mm"]) == 0
"""


@pytest.fixture(scope="module")
def drawn_twice(root, tmp_path_factory) -> list[Path]:
    """A figure's file of each kind, without its suffix, from two processes that hash and date differently."""
    places = [tmp_path_factory.mktemp("drawn") / seed for seed in ("1", "2")]
    for place in places:
        environment = {**os.environ, "PYTHONHASHSEED": place.name, "SOURCE_DATE_EPOCH": place.name}
        command = [sys.executable, "-c", DRAW, str(root), str(place)]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    return places


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_text_as_text_and_the_same_bytes_each_time(drawn_twice, kind):
    made = [place.with_suffix(f".{kind}").read_bytes() for place in drawn_twice]
    assert made[0] == made[1]
    if kind == "pdf":
        reader = pypdf.PdfReader(io.BytesIO(made[0]))
        fonts = [font.get_object() for font in reader.pages[0]["/Resources"]["/Font"].values()]
        assert fonts and all("/FontFile2" in _descriptor(font) for font in fonts)  # TrueType, embedded
        assert "wrist_zero_every4" in reader.pages[0].extract_text()
        assert reader.pages[0].mediabox.width == pytest.approx(85 / 25.4 * 72, abs=0.1)
        assert reader.metadata.creation_date is None
    if kind == "svg":
        assert b">wrist_zero_every4, n = " in made[0] and b"<dc:date>" not in made[0]


def _descriptor(font):
    inner = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
    return inner["/FontDescriptor"].get_object()


# --- tables ---


def test_every_table_of_a_report_has_a_name_on_the_list(runs):
    names = set()
    for run in runs.values():
        made = [t for entry in tables.TABLES.values() if run.files(entry.needs) for t in entry.section(run).tables]
        assert {table.name.partition("/")[0] for table in made} <= set(tables.TABLES)
        names |= {name.partition("/")[0] for name in tables.found(run)}
    assert names == set(tables.TABLES) - ABSENT


def test_each_format_has_the_cells_of_the_page(runs):
    for run in runs.values():
        for name, table in tables.found(run).items():
            cells = [[table_formats.text(row.get(key)) for key in table.columns] for row in table.rows]
            assert list(csv.reader(io.StringIO(table_formats.comma_separated(table))))[1:] == cells, name
            latex = table_formats.latex(table)
            assert latex.isascii() and latex.count(r"\\") == len(cells) + 1, name
            lines = [line for line in table_formats.markdown(table).splitlines() if line.startswith("| ")]
            assert len(lines) == len(cells) + 2, name
            assert all(len(re.split(r"(?<!\\)\|", line)) == len(table.columns) + 2 for line in lines), name


def test_counts_of_a_table_are_those_of_the_summaries(runs, capsys, root):
    assert flashtrail("table", "success", root, "--format", "csv") == 0
    rows = {row["Arm"].partition(":")[0]: row["k/n"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    found = runs["final"].summaries
    assert rows == {arm: f"{s['success']['k']}/{s['success']['n']}" for arm, s in found.items()}


def test_what_a_format_reads_as_its_own_is_escaped():
    hostile = "a_b & 5 % $x$ \\input{/etc/passwd} #~^ | `c` *d* [e](f) <g>"
    table = page.table([{"x": hostile}], {"x": hostile}, caption=hostile, name="t").tables[0]
    escaped = (
        r"a\_b \& 5~\% \$x\$ \textbackslash{}input\{/etc/passwd\} \#\textasciitilde{}\textasciicircum{} "
        r"\textbar{} `c` *d* [e](f) \textless{}g\textgreater{}"
    )
    assert table_formats.latex(table).count(escaped) == 3
    written = r"a\_b & 5 % $x$ \\input{/etc/passwd} #\~^ \| \`c\` \*d\* [e\](f) \<g\>"
    assert table_formats.markdown(table).count(written) == 3
    assert list(csv.reader(io.StringIO(table_formats.comma_separated(table)))) == [[hostile], [hostile]]


# --- commands ---


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("figure", "succes"), "no figure is called 'succes'; did you mean 'success'?"),
        (("table", "sucess"), "no table is called 'sucess'; did you mean 'success'?"),
        (("figure", "drills-feature", "RUN"), "give one of drills-feature/picture_step"),
        (("table", "remedies", "RUN"), "this run has no table remedies"),
        (("figure", "success", "RUN", "--width", "1in"), "a figure is 3 to 10 in wide"),
        (("figure", "success", "RUN", "--width", "3"), "give a number and a unit"),
        (("figure", "success", "RUN", "-o", "x.jpg"), "a figure is written as .pdf, .svg, .png"),
        (("figure", "success", "RUN", "-o", "x.pdf", "--format", "svg"), "-o x.pdf is not a name for svg"),
        (("figure", "success", "RUN", "-o", "-"), "give the name of a file"),
        (("figure", "success", "RUN", "-o", "/dev/null", "--force"), "/dev/null is not a regular file"),
        (("table", "success", "RUN", "-o", "nowhere/x.csv"), "there is no directory nowhere"),
        (("summary", "RUN", "-o", "/proc/x.pdf"), "/proc/x.pdf cannot be made there"),
        (("figure", "success", "RUN", "--report", "robust"), "this run has no such report"),
        (("figure", "success", "NOWHERE"), "NOWHERE does not exist"),
        (("table", "success", "RUN/reports"), "no finished report"),
        (("summary", "RUN", "-o", "x.txt"), "ends in .pdf"),
        (("summary", "RUN/reports"), "no finished report"),
        (("cite", "RUN/reports"), "no finished report"),
        (("table", "success", "RUN", "RUN"), "only imported runs"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(root, tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert flashtrail(*(word.replace("RUN", str(root)) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and line in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("figure", "endings"), ("table", "success"), ("cite",), ("summary",)])
def test_a_file_that_is_there_is_replaced_by_force_only(root, tmp_path, capsys, words):
    out = tmp_path / ("x.csv" if words[0] == "table" else "x.pdf")
    out.write_text("mine")
    assert flashtrail(*words, root, "-o", out) == 2 and out.read_text() == "mine"
    assert "exists: give --force" in capsys.readouterr().err
    assert flashtrail(*words, root, "-o", out, "--force") == 0 and out.read_bytes() != b"mine"
    assert list(tmp_path.iterdir()) == [out]


def test_the_list_says_what_this_run_has_and_in_which_report(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert flashtrail("figure") == 0 and flashtrail("table", root) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines}
    assert named["grid/wrist_grid"].endswith("(final)") and named["checkup-closing"].endswith("(checkup)")
    assert named["remedies"].endswith("(not in this run)") and "drills-feature/reach" in named


def test_a_run_whose_report_was_never_finished_has_none(root, tmp_path, capsys):
    job = provenance.json_load(root / "results/logs/render_final.json")
    provenance.json_dump(job, tmp_path / "results/logs/render_final.json")  # left at the job's beginning
    assert flashtrail("figure", "success", tmp_path) == 2
    assert "no finished report" in capsys.readouterr().err


def test_a_record_names_no_file_outside_its_run(root, tmp_path, capsys):
    job = provenance.json_load(root / "results/logs/render_final.json")
    job["input"]["claims"] = "../../secret.json"
    provenance.json_dump(job, tmp_path / "results/logs/render_final.json")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/final.html").write_text("<!doctype html>")
    assert flashtrail("cite", tmp_path) == 2 and "is not below" in capsys.readouterr().err


# --- citation and summary ---


def test_a_citation_names_software_run_and_quoted_works(root, runs, capsys):
    assert flashtrail("cite", root) == 0
    text = capsys.readouterr().out
    episodes = sum(len(run.episodes) for run in runs.values())
    for words in ("Apache-2.0", f"{episodes} episodes in", "config: simulated0000000", "seed: 7", "python 3.11"):
        assert words in text, words
    assert "72638ca" in text and "1b5d583" in text and "Model card of pi0_nano" in text
    entries = re.findall(r"^@(\w+)\{([^,]+),\n(.*?)^\}", text, re.M | re.S)
    assert [(kind, key) for kind, key, _ in entries][:2] == [
        ("software", "flashtrail"),
        ("misc", "flashtrail-run-simulate"),
    ]
    assert all(body.count("{") == body.count("}") for *_, body in entries) and r"pi0\_nano" in text


def test_without_a_run_the_software_is_cited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert flashtrail("cite", "--format", "bibtex") == 0
    text = capsys.readouterr().out
    assert text.startswith("@software{flashtrail,") and text.count("@") == 1


def test_a_run_whose_figures_are_too_tall_has_a_summary_without(root, tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "_TALLEST", 0.0)
    assert flashtrail("summary", root, "-o", tmp_path / "s.pdf") == 0
    assert "How to repeat" in pypdf.PdfReader(tmp_path / "s.pdf").pages[0].extract_text()


def test_a_summary_is_one_page_with_sentence_claims_and_limits(root, runs, tmp_path):
    for number in range(2):
        assert flashtrail("summary", root, "-o", tmp_path / f"{number}.pdf") == 0
    assert (tmp_path / "0.pdf").read_bytes() == (tmp_path / "1.pdf").read_bytes()
    (sheet,) = pypdf.PdfReader(tmp_path / "0.pdf").pages
    assert [round(float(side)) for side in sheet.mediabox[2:]] == [595, 842]
    text = " ".join(sheet.extract_text().split())
    assert " ".join(headline.said(runs["final"]).text.split()) in text and "Simulated data" in text
    tested, untested = cards.split(runs["final"].claims["claims"])
    assert tested and all(f"{claim['id']} {claim['title']}" in text for claim in tested)
    assert all(" ".join(cards.short(claim).split()) in text for claim in tested)
    assert all(claim["id"] in text.partition("Not tested:")[2] for claim in untested)
    assert "no person watched" in text and "flashtrail audit" in text


# --- what else is a run ---


@pytest.mark.slow
def test_a_bundle_gives_the_same_table_as_its_run(tmp_path, capsys):
    run = campaign.copy(tmp_path / "run")
    bundle = campaign.build(run)
    for place in (run, bundle):
        assert flashtrail("table", "success", place) == 0
    first, second = capsys.readouterr().out.split(r"\end{table}")[:2]
    assert first.strip() == second.strip() and r"\toprule" in first
    assert flashtrail("cite", bundle) == 0
    assert f"manifest: {provenance.sha256_file(bundle / 'manifest-sha256.txt')}" in capsys.readouterr().out


def test_an_imported_run_has_figures_and_tables(tmp_path, capsys, monkeypatch):
    official.write_run(tmp_path / "run")
    write(read_run(tmp_path / "run", "pi0", "clean"), tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert flashtrail("figure", "success", "out") == 0 and Path("success.pdf").stat().st_size > 1000
    assert flashtrail("table", "success", "out", "--format", "markdown") == 0
    k, n = sum(e["success"] for e in official.episodes()), len(official.episodes())
    assert f"| {k}/{n} |" in capsys.readouterr().out
    assert flashtrail("table", "claims", "out") == 2  # report-run was not run
