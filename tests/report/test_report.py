"""Summaries, published figures and pages: counted by hand, checked from outside, free of any request."""

import re
from pathlib import Path

import nbformat
import pytest
from claims.simulated import TASKS, shard, write_campaign

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import published, summaries, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import chapters, claims_chapter, headline, layout, overview, page, rendering
from flashtrail.tables import keys, schemas

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> dict:
    """A simulated campaign of three arms with two episodes a task, and its verdicts."""
    root = tmp_path_factory.mktemp("campaign")
    inputs = write_campaign(root, ["clean", "wrist_zero_every4", "guard_wrist_zero_every4"], episodes=2)
    provenance.json_dump(verdicts.evaluate(REPOSITORY / "claims.yaml", inputs), root / "claims.json")
    return {**inputs, "claims": str(root / "claims.json")}


def test_a_summary_counts_what_the_rows_say(campaign):
    path = Path(campaign["episodes"][0])
    summary = summaries.summarize_arm(path, path.with_name("rounds.parquet"))
    rounds = [row for task in TASKS for row in shard("clean", task, 2)["rounds"]]
    drafts = [row["accepted_prefix"] for row in rounds if row["route"] == "draft"]
    assert summary["success"]["n"] == 6 and len(summary["tasks"]) == 3
    assert summary["routes"]["draft"] == len(drafts) and summary["routes"]["n"] == len(rounds)
    assert summary["accepted_prefix"]["mean_draft"] == pytest.approx(sum(drafts) / len(drafts))
    everything = [row["accepted_prefix"] for row in rounds]  # a full round reports 12
    assert summary["accepted_prefix"]["mean_all"] == pytest.approx(sum(everything) / len(everything))
    assert summary["accepted_prefix"]["zero"] == drafts.count(0) == summary["routes"]["fallback_causes"]["zero_accept"]
    assert summary["mixture"]["mean_ms"] == pytest.approx(summary["mixture"]["implied_ms"])
    scopes = [summary["latency"][scope]["all"]["policy_ms"]["n"] for scope in summaries.SCOPES]
    assert scopes[0] == len(rounds) > scopes[1] > 0
    assert summary["guard"] is None and summary["condition"]["rounds_hit"] == 0


def test_guard_counters_add_up(campaign):
    run = Campaign(campaign)
    counts = run.summaries["guard_wrist_zero_every4"]["guard"]
    assert counts["hits"] + counts["misses"] == counts["unhealthy"]
    assert counts["updates"] + counts["unhealthy"] == counts["rounds"]
    assert counts["misses"] == 6  # the first query of each episode has nothing cached


def test_failures_are_sorted_by_what_touched_them(campaign):
    found = chapters.taxonomy(Campaign(campaign)).set_index("arm")
    assert (found["n"] == found[["success", "horizon", "perturbation", "infrastructure"]].sum(axis=1)).all()
    assert found.loc["clean", "perturbation"] == 0 and found.loc["wrist_zero_every4", "horizon"] == 0


def test_two_arms_are_no_summary(campaign):
    with pytest.raises(UserError, match="a summary is of one arm"):
        summaries.summarize_arm(campaign["episodes"][:2], campaign["rounds"][:2])


def test_an_unknown_kind_of_input_is_named():
    with pytest.raises(UserError, match="unknown kind 'episode'; did you mean 'episodes'"):
        Campaign({"episode": []})


def test_published_figures_hold_together():
    rows = published.checks(published.load())
    assert [row for row in rows if row["agrees"] is False] == []
    implied = {row["what"]: row["found"] for row in rows if row["check"] == "implied draft round"}
    assert implied["FLASH+Triton, libero_goal"] == "8.93 ms"
    assert sum(row["check"] == "rate is a count" for row in rows) == 16


def test_a_typo_in_a_published_rate_is_found():
    figures = published.load()
    wrong = figures.success[0].model_copy(update={"percent": 96.9})
    rows = published.checks(figures.model_copy(update={"success": [wrong]}))
    assert [row["found"] for row in rows if row["agrees"] is False] == ["no whole count"]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_a_source_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"] and code[0].source.startswith("inputs = {}")
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.id for cell in notebook.cells] == [f"cell-{number:02d}" for number in range(len(notebook.cells))]
    assert path.read_text() == nbformat.writes(notebook) + "\n"


def test_text_is_escaped_and_fragments_are_not():
    rows = [{"a": "<script>", "b": page.code("one_two")}]
    text = page.table(rows, {"a": "A < B", "b": "B"})
    assert "&lt;script&gt;" in text and "A &lt; B" in text and "<code>one_<wbr>two</code>" in text


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        '<img src="figure.png">',
        "<style>@import 'https://fonts.example/x';</style>",
        '<p style="background: url(http://x.example/a.png)">',
    ],
)
def test_a_page_that_would_load_something_is_noticed(text):
    assert len(rendering.external_references(text)) == 1


def test_links_and_embedded_images_load_nothing():
    text = '<a href="https://example.org">x</a><img src="data:image/png;base64,AA"><style>p { color: red }</style>'
    assert rendering.external_references(text) == []


def test_a_page_without_any_arm_still_says_so():
    run = Campaign({})
    parts = [overview.header(run, "t"), headline.section(run), chapters.success(run), chapters.guard(run)]
    parts += [chapters.failures(run), chapters.latency_profile(run), chapters.routes(run), claims_chapter.matrix(run)]
    assert "No arm was run." in page.join(*parts)


def test_an_open_claim_that_no_number_of_episodes_settles_is_named(tmp_path):
    """A latency that was measured under load, or a comparison that was looked at with several n."""
    claims = [{"id": "C5", "verdict": "supported", "settle": None}]
    for verdict, words in (
        ("supported", "No claim is inconclusive."),
        ("inconclusive", " C6: the evidence is not counted in episodes"),
        ("inconclusive", "C7: the guard did nothing."),
    ):
        entries = [*claims, {"id": "C6", "verdict": verdict, "settle": None}]
        entries.append({"id": "C7", "verdict": verdict, "settle": None, "open": "the guard did nothing"})
        provenance.json_dump({"claims": entries}, tmp_path / "claims.json")
        assert words in claims_chapter.unsettled(Campaign({"claims": str(tmp_path / "claims.json")}))


def test_an_executed_notebook_names_no_place_of_this_machine(tmp_path):
    """Files below the notebook are named as seen from there, others by their last part; what it does is unchanged."""
    out, other = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out, other):
        folder.mkdir()
        (folder / 'a "b" \u00e9.json').write_text("1")
    cells = [nbformat.v4.new_code_cell("inputs = {}", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell("print(sum(len(open(p).read()) for p in inputs['chapters']))")]
    language = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": language})
    nbformat.write(made, tmp_path / "n.ipynb")
    found = [str(folder / 'a "b" \u00e9.json') for folder in (out, other)]
    rendering.render(
        tmp_path / "n.ipynb", out / "n.ipynb", out / "n.html", {"chapters": found, "arms": ["/x/y", "clean"]}
    )
    executed = nbformat.read(out / "n.ipynb", 4)
    assert executed.cells[-1].outputs[0]["text"] == "2\n"
    assert str(tmp_path) not in (out / "n.ipynb").read_text()
    names = {}
    exec(executed.cells[1].source, names)
    assert names["inputs"] == {"chapters": ['a "b" \u00e9.json', '.../a "b" \u00e9.json'], "arms": ["/x/y", "clean"]}
    assert executed.metadata.papermill.parameters["inputs"] == names["inputs"]


@pytest.mark.slow
def test_final_renders_on_simulated_tables(campaign, tmp_path):
    source = REPOSITORY / "notebooks" / "final.ipynb"
    rendering.render(source, tmp_path / "final.ipynb", tmp_path / "final.html", campaign)
    text = (tmp_path / "final.html").read_text()
    assert rendering.external_references(text) == [] and "mathjax" not in text.lower() and "require.js" not in text
    assert (
        re.findall(r"<script[^>]*>", text) == ["<script>"]
        and (Path(layout.__file__).parent / "static/report.js").read_text() in text
    )
    assert "Simulated data" in text and text.count("<figure>") == 8
    assert "Undecided" in text and "WristHealthGuard" in text
    assert len(text) < 5e6
    executed = (tmp_path / "final.ipynb").read_text()
    assert '"output_path"' not in executed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final.html", "final.ipynb"]


@pytest.mark.slow
def test_a_broken_table_is_one_line_and_leaves_nothing(campaign, tmp_path):
    broken = tmp_path / "episodes.parquet"
    broken.write_bytes(b"nothing")
    source = REPOSITORY / "notebooks" / "claims.ipynb"
    with pytest.raises(UserError, match=r"claims\.ipynb: .*not a readable Parquet file"):
        rendering.render(source, tmp_path / "o.ipynb", tmp_path / "o.html", {**campaign, "episodes": [str(broken)]})
    assert [p.name for p in tmp_path.iterdir()] == ["episodes.parquet"]


def test_merged_and_summarised_rows_are_the_same_rows(campaign):
    merged = schemas.read_table(campaign["episodes"][0], schemas.EPISODES)
    assert len(merged) == len(keys.product("clean", "s", [0, 1, 2], [0, 1], repeats=1))
