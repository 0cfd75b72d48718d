"""Pages of episodes: every link leads somewhere, every mark stands for a row, and a directory is whole or not there."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from claims.simulated import METADATA, SUITE, TASKS, write_campaign
from report.rendered import answers

from flashtrail.base.errors import UserError
from flashtrail.claims.campaign import Campaign
from flashtrail.report import count_links, episode_browser, episode_pages, page, timeline
from flashtrail.tables import endings, links, schemas

ARMS = ["clean", "guard_wrist_zero_every4"]
HREF = re.compile(r'(?:href|src)="([^"]+)"')


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> dict:
    """Two simulated arms of two episodes a task, with a sheet and a film of one episode each."""
    root = tmp_path_factory.mktemp("campaign")
    inputs = write_campaign(root, ARMS, episodes=2)
    for arm in ARMS:
        directory = root / "rollouts" / arm / "task_0"
        (directory / "videos").mkdir()
        (directory / "videos" / "init_000_repeat_0.mp4").write_bytes(b"a film")
        sheet = {"arm": arm, "suite": SUITE, "task_id": 0, "init_state": 0, "repeat": 0, "outcome": "success"}
        rows = [{**sheet, "jpeg": b"\xff\xd8a sheet"}]
        schemas.write_table(directory / "sheets.parquet", rows, schemas.SHEETS, METADATA)
        path = root / "tables" / arm / "episodes.parquet"
        episodes = schemas.read_table(path, schemas.EPISODES).to_pylist()
        episodes[0]["video"] = "videos/init_000_repeat_0.mp4"
        schemas.write_table(path, episodes, schemas.EPISODES, METADATA)
    return inputs


@pytest.fixture(scope="module")
def reports(campaign, tmp_path_factory) -> Path:
    """A reports directory with all pages, moved after it was written."""
    root = tmp_path_factory.mktemp("run")
    for arm, files in files_of(campaign).items():
        sheets = [Path(files["episodes"]).parents[2] / "rollouts" / arm / "task_0" / "sheets.parquet"]
        assert episode_pages.write_arm(root / "reports" / "episodes" / arm, files, sheets) == 2 * len(TASKS)
    episode_browser.write_index(root / "reports" / "episodes" / "index.html", campaign, ARMS)
    (root / "reports" / "final.html").write_text("the report")
    return Path(shutil.move(root / "reports", root / "moved"))


def files_of(campaign: dict, arms: Sequence[str] = ARMS) -> dict[str, dict[str, str]]:
    return {arm: {name: next(p for p in campaign[name] if f"/{arm}/" in p) for name in schemas.SCHEMAS} for arm in arms}


def test_every_link_of_a_moved_directory_leads_to_a_file_and_an_anchor(reports):
    pages = sorted(reports.rglob("*.html"))
    assert len(pages) == 1 + 1 + len(ARMS) * (1 + 2 * len(TASKS))
    followed = 0
    for path in pages:
        for target in HREF.findall(path.read_text()):
            if target.startswith(("data:", "http")):
                continue
            place, _, anchor = target.partition("#")
            found = (path.parent / place).resolve() if place else path.resolve()
            assert found.is_file() and reports.resolve() in found.parents, f"{path}: {target}"
            assert answers(found, anchor), f"{path}: {target}"
            followed += 1
    assert followed > 60


def test_every_episode_is_in_the_index_and_in_its_arms_list(reports):
    index = (reports / "episodes" / "index.html").read_text()
    for arm in ARMS:
        names = [f"{SUITE}_task_{task}_init_{state:03d}_repeat_0.html" for task in TASKS for state in (0, 1)]
        assert all(f'href="{arm}/{name}"' in index for name in names)
        listed = (reports / "episodes" / arm / "index.html").read_text()
        assert all(listed.count(f'href="{name}"') == 2 for name in names)  # by its end, and by its task


def test_a_page_says_what_the_rows_say(reports, campaign):
    arm = "guard_wrist_zero_every4"
    table = schemas.read_table(files_of(campaign)[arm]["rounds"], schemas.ROUNDS).to_pandas()
    seen = 0
    for (task, state), rounds in table.groupby(["task_id", "init_state"]):
        text = (reports / "episodes" / arm / f"{SUITE}_task_{task}_init_{state:03d}_repeat_0.html").read_text()
        drafts, hit, replaced = rounds[rounds["route"] == "draft"], *rounds[["condition_applied", "replaced"]].sum()
        rejected = (drafts["accepted_prefix"] == 0).sum()
        assert f"Full rounds: {len(rounds) - len(drafts)} of {len(rounds)}" in text
        assert f"Condition applied: {hit} of {len(rounds)}" in text
        assert f"Guard replaced the view: {replaced} of {len(rounds)}" in text
        assert (f"black: {rejected}\u00a0draft" in text) == bool(rejected)
        assert text.count(": condition applied</title>") == hit
        assert text.count("guard replaced the view</title>") == replaced
        assert text.count("<tr>") == len(rounds) + 1
        assert "Simulated data" in text
        assert ("No film of this episode." in text) == ((task, state) != (0, 0))
        seen += bool(rejected)
    assert seen  # an episode with a rejected draft was among them


def test_an_arm_that_never_drafts_has_no_word_of_routes(tmp_path, campaign, reports):
    alone = files_of(write_campaign(tmp_path, ["full_only"], episodes=1), ["full_only"])["full_only"]
    episode_pages.write_arm(tmp_path / "pages", alone, [])
    text = "".join(path.read_text() for path in (tmp_path / "pages").glob("*.html"))
    others = "".join(path.read_text() for path in (reports / "episodes" / "clean").glob("*.html"))
    for word in (">Drafts<", ">Why full<", ">Accepted<", "Accepted: actions of a draft", "Full rounds: "):
        assert word not in text and word in others, word
    assert "Rounds: " in text and ">Executed<" in text


def test_a_film_and_its_sheet_are_kept_beside_the_page(reports):
    directory = reports / "episodes" / "clean"
    name = f"{SUITE}_task_0_init_000_repeat_0"
    assert (directory / "videos" / f"{name}.mp4").read_bytes() == b"a film"
    text = (directory / f"{name}.html").read_text()
    assert f'<video controls preload="none" src="videos/{name}.mp4"' in text and "data:image/jpeg;base64,/9hh" in text


def test_a_round_that_was_rejected_whole_still_shows_its_fault():
    common = {"healthy": None, "masked": None, "replaced": None, "policy_ms": 5.0, "roundtrip_ms": 6.0, "executed": 0}
    rounds = [
        {**common, "round": 0, "env_step": 0, "route": "draft", "accepted_prefix": 0, "condition_applied": True},
        {**common, "round": 1, "env_step": 0, "route": "full", "accepted_prefix": 12, "condition_applied": False},
    ]
    rounds = [{**row, "fallback_cause": "zero_accept"} for row in rounds]
    text = timeline.draw(rounds, schemas.STEPS.empty_table().to_pandas(), 12, "success", 12)
    assert text.count("round 0: condition applied</title>") == 1 and "1 draft rejected whole" in text.replace(
        "\u00a0", " "
    )


def test_rounds_without_a_step_are_placed_by_what_they_executed():
    rounds = [{"env_step": None, "executed": executed} for executed in (12, 0, 9)]
    assert [(row["start"], row["end"]) for row in timeline.placed(rounds, 21)] == [(0, 12), (12, 12), (12, 21)]


def test_stretches_of_a_signal():
    assert timeline.runs([True, True, False, True]) == [(0, 2), (3, 4)]
    assert timeline.runs([False, False]) == [] and timeline.runs([]) == []


def test_an_episode_is_judged_by_its_own_arms_rounds():
    """The same start under a fault in one arm and without in another."""
    start = {"suite": SUITE, "task_id": 0, "init_state": 0, "repeat": 0}
    episodes = pd.DataFrame([{**start, "arm": arm, "outcome": "horizon"} for arm in ("a", "b")], index=[5, 3])
    rounds = pd.DataFrame([{**start, "arm": arm, "condition_applied": arm == "b"} for arm in ("a", "b")])
    assert endings.kinds(episodes, rounds).to_dict() == {5: "horizon", 3: "perturbation"}


def test_where_no_round_says_whether_it_was_touched_no_fault_is_not_claimed():
    start = {"suite": SUITE, "task_id": 0, "repeat": 0, "arm": "a"}
    episodes = pd.DataFrame([{**start, "init_state": state, "outcome": "horizon"} for state in range(4)])
    told = {0: (None, None), 1: (None, False), 2: (None, True)}  # and of the last there is no round
    rows = [{**start, "init_state": state, "condition_applied": x} for state, said in told.items() for x in said]
    found = endings.kinds(episodes, pd.DataFrame(rows))
    assert found.tolist() == ["untold", "horizon", "perturbation", "untold"]
    table = endings.taxonomy(episodes, pd.DataFrame(rows), ["a"])
    assert table.loc[0, list(endings.KINDS)].sum() == table.loc[0, "n"] == 4


ERRORS = {
    "no /home/zaphod/models/x.pt, gs://a/b/c": "no .../x.pt, gs://a/b/c",
    "no '/srv/Mein zaphod/draft.pt' here": "no '.../draft.pt' here",
    "no /home/my zaphod/ckpt/model.pt": "no .../model.pt",
    "file:///root/zaphod/id_rsa": ".../id_rsa",
    r"C:\Users\zaphod\x.mp4 and \\server\zaphod\y": ".../y",
    "~zaphod/private/z.pt; ~/zaphod/run.log": ".../z.pt; .../run.log",
    "12 steps/s, 3/4 of it; read https://example.org/a/b": "12 steps/s, 3/4 of it; read https://example.org/a/b",
}


@pytest.mark.parametrize(("error", "shown"), ERRORS.items())
def test_no_page_names_a_place_of_the_machine(tmp_path, error, shown):
    files = files_of(write_campaign(tmp_path / "run", ARMS[:1], episodes=1), ARMS[:1])["clean"]
    episodes = schemas.read_table(files["episodes"], schemas.EPISODES).to_pylist()
    episodes[0] |= {"outcome": "error", "success": False, "error": error}
    schemas.write_table(files["episodes"], episodes, schemas.EPISODES, METADATA)
    episode_pages.write_arm(tmp_path / "episodes" / "clean", files, [])
    pages = {path: html.unescape(path.read_text()) for path in tmp_path.rglob("*.html")}
    assert any(shown in text for text in pages.values())
    assert not [path for path, text in pages.items() if "zaphod" in text or str(tmp_path) in text]


def test_a_damaged_table_leaves_no_directory(campaign, tmp_path):
    broken = tmp_path / "steps.parquet"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        episode_pages.write_arm(tmp_path / "clean", {**files_of(campaign)["clean"], "steps": broken})
    assert [p.name for p in tmp_path.iterdir()] == ["steps.parquet"]


def test_counts_link_only_where_there_are_pages(campaign):
    without = Campaign(campaign)
    assert count_links.behind(without, "clean", "5/6") == "5/6"
    run = Campaign({**campaign, "pages": ["reports/episodes/clean/index.html"]})
    linked = count_links.behind(run, "clean", "5/6", links.task_anchor(1))
    assert str(linked) == '<a href="episodes/clean/index.html#task-1">5/6</a>'
    assert count_links.behind(run, "guard_wrist_zero_every4", "5/6") == "5/6"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("27/30", 0.9),
        ("27/30 (90 %)", 0.9),
        ("0/0", None),
        ("\u221253 [\u221275, \u221222] points", -53),
        ("+3", 3),
        ("p\u00a0=\u00a00.0078", 0.0078),
        ("p\u00a0<\u00a00.0001", 0.0001),
        ("> 100,000", 100000),
        ("e = 1,694 (needs 20) (Holm 8.5e+02)", 1694),
        ("e = > 10,000 (needs 20)", 10000),
        ("10.8 [9.87, 12.6]", 10.8),
        ("66\u00a0%", 66),
        ("2 / 6", 2),
        ("\u2013", None),
        ("clean", None),
        ("3fe1a9", None),
        ("task 1", None),
        (page.link("5/8", "x.html#1"), 0.625),
        (7, 7),
    ],
)
def test_cells_are_sorted_by_what_they_mean(text, value):
    assert page.sort_value(text) == pytest.approx(value)
