"""The running clock: its rules by hand and as properties, and whole episodes against scripts, step by step."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import scripted
from rollouts.scripted import DRAFT, FULL, KEY, Simulator, run

from flashtrail.base.errors import UserError
from flashtrail.experiment import clocks
from flashtrail.experiment.clocks import Replay
from flashtrail.rollouts import clock, latency
from flashtrail.rollouts.clock import Chunk
from flashtrail.rollouts.episode import EpisodeError, Running
from flashtrail.simulators import seeds
from flashtrail.tables import schemas

STILL = (0.0,) * 6


def running(constant_ms=0.0, **more) -> Running:
    made = clocks.read({"kind": "running", "source": {"constant_ms": constant_ms}, **more})
    return Running(made, latency.load(made.source))


def executed(record) -> list[str]:
    """Each control step in short: ``1.5`` action 5 of round 1's chunk, ``1.5*`` stale, ``held 1`` while 1 is asked."""
    return [
        f"held {row['round']}"
        if row["offset_in_chunk"] is None
        else f"{row['round']}.{row['offset_in_chunk']}{'*' if row['stale'] else ''}"
        for row in record.steps
    ]


def span(round_, first, last, mark=""):
    return [f"{round_}.{offset}{mark}" for offset in range(first, last)]


# --- the rules ---


@pytest.mark.parametrize(
    ("ms", "hz", "steps"),
    [
        *[(0, 20, 0), (1, 20, 1), (50, 20, 1), (50.1, 20, 2), (58, 20, 2), (58, 100, 6), (39.7, 100, 4)],
        *[
            (8.067, 100, 1),
            (33.156, 100, 4),
            (8.067, 20, 1),
            (33.156, 20, 1),
            (0.7, 10, 1),
            (70, 100, 7),
            (2900, 20, 58),
        ],
        *[(4.35 * 1000 / 100, 100, 5), (0.29 * 1000, 100, 29)],  # 28.999999999999996 and its like
    ],
)
def test_a_round_takes_as_many_control_steps_as_it_touches(ms, hz, steps):
    assert clock.control_steps(ms, hz) == steps


def test_what_a_round_vouches_for():
    assert clock.usable("full", 12, 50) == 50  # all were computed; 12 is when it is asked again
    assert clock.usable("draft", 5, 50) == 5  # the rest were rejected
    assert clock.usable("full", 0, 50) == clock.usable("draft", 0, 50) == 0


@settings(deadline=None)
@given(
    in_hand=st.none() | st.tuples(st.integers(0, 80), st.integers(0, 50)),
    now=st.integers(80, 200),
    waited=st.integers(0, 60),
    accepted=st.integers(0, 50),
    route=st.sampled_from(["full", "draft"]),
    replan=st.integers(1, 50),
    ahead=st.integers(0, 60) | st.just("auto"),
    waiting=st.sampled_from(get_args(clocks.Waiting)),
)
def test_no_step_is_without_exactly_one_action_and_none_is_for_another_moment(
    in_hand, now, waited, accepted, route, replan, ahead, waiting
):
    made = clocks.read({"kind": "running", "source": "measured", "while_waiting": waiting, "ask_ahead": ahead})
    old = None if in_hand is None else Chunk(3, *in_hand)
    new = Chunk(4, now, clock.usable(route, accepted, 50))
    prefix = min(replan, accepted)
    before, after = clock.moves(made, now, waited, prefix, new, old)
    assert len(before) == waited and all(move.stale for move in before) and not any(m.stale for m in after)
    for step, move in enumerate([*before, *after], start=now):
        chunk = {3: old, 4: new}[move.round]
        if move.offset is not None:
            assert move.offset == chunk.offset(step)  # its own moment, and vouched for
        assert move.offset is not None or step < now + waited  # holds only while waiting
    # Nothing of a chunk before its answer is there; nothing of the old one after; nothing past the prefix.
    assert all(move.round == 3 or move.offset is None for move in before)
    assert all(move.round == 4 and waited <= move.offset < prefix for move in after)
    assert bool(after) == (prefix > waited)
    if old is not None and waiting == "chunk":
        kept = sum(old.offset(step) is not None for step in range(now, now + waited))
        assert sum(move.round == 3 for move in before) == kept
    else:
        assert not any(move.round == 3 for move in before)
    lead = waited if ahead == "auto" else ahead
    if prefix > waited:
        assert len(after) == max(1, prefix - waited - lead)
    assert clock.stale_dropped(waited, prefix) + max(0, prefix - waited) == prefix
    hand = clock.next_in_hand(new, old, now + waited)
    assert hand == (new if new.usable > waited else old)


def test_under_the_paused_clock_the_prefix_is_executed_and_nothing_else():
    waiting, fresh = clock.moves(None, 7, 0, 5, Chunk(2, 7, 50), Chunk(1, 0, 50))
    assert waiting == [] and [(move.round, move.offset, move.stale) for move in fresh] == [
        (2, i, False) for i in range(5)
    ]


# --- whole episodes ---


def test_an_episode_by_hand():
    # 100 ms at 20 Hz: two control steps. Round 0 full, 1 draft of 5, 2 rejected, 3 full, 4 draft of 12.
    script = [(12, FULL), (5, DRAFT), (0, DRAFT), (12, FULL), (12, DRAFT)]
    record, policy, simulator = run(script, running=running(100))
    assert executed(record) == [
        *["held 0", "held 0", *span(0, 2, 12)],  # nothing is there yet: hold still
        *[*span(0, 12, 14, "*"), *span(1, 2, 5)],  # a full round's chunk goes on
        *["held 2", "held 2"],  # a draft's does not past what was accepted, and all of it is executed
        *["held 3", "held 3", *span(3, 2, 12)],
        *[*span(3, 12, 14, "*"), *span(4, 2, 9)],  # cut by the horizon of 40
    ]
    rows = record.rounds
    assert [row["env_step"] for row in rows] == [0, 12, 17, 19, 31]
    assert [row["waited_steps"] for row in rows] == [2, 2, 2, 2, 2]
    assert [row["stale_dropped"] for row in rows] == [2, 2, 0, 2, 2]
    assert [row["executed"] for row in rows] == [10, 3, 0, 10, 7]
    assert [row["latency_ms"] for row in rows] == [100.0] * 5
    assert sum(row["executed"] + row["waited_steps"] for row in rows) == len(record.steps) == 40
    assert [told for told, *_ in policy.asked] == [0, 12, 5, 0, 12]  # actions of the last chunk that are past
    # What was done is what the rows say; held steps do not move and keep the gripper as it was told.
    last = -1.0
    for row, action in zip(record.steps, simulator.taken[1:], strict=True):
        if row["offset_in_chunk"] is None:
            assert action == (*STILL, last)
        else:
            assert action == (row["round"] + row["offset_in_chunk"] / 100,) * 7
        assert action == tuple(row["action"])
        last = action[6]
    # A picture is taken at the queries and nowhere else, and is the one from before the wait.
    rendered = [step for step, wanted in enumerate(simulator.rendered, start=1) if wanted]
    assert rendered == [12, 17, 19, 31, 40]
    assert [int(obs["observation/image"].max()) for *_, obs in policy.asked] == [0, 12, 17, 19, 31]


def test_holding_and_repeating_while_waiting():
    script = [(12, FULL)]
    held, *_ = run(script, running=running(100, while_waiting="hold"))
    assert executed(held)[12:16] == ["held 1", "held 1", "1.2", "1.3"]
    assert held.steps[12]["action"] == [*STILL, 0.11]
    again, *_ = run(script, running=running(100, while_waiting="repeat"))
    assert executed(again)[12:14] == ["held 1", "held 1"]
    assert again.steps[0]["action"] == [*STILL, -1.0]  # nothing to repeat yet: still, gripper open
    assert again.steps[12]["action"] == again.steps[13]["action"] == [0.11] * 7


def test_asking_ahead_leaves_accepted_actions_for_the_wait():
    script = [(12, FULL), (12, DRAFT)]
    record, policy, _ = run(script, running=running(100, ask_ahead=2))
    assert executed(record)[:32] == [
        *["held 0", "held 0", *span(0, 2, 10)],
        *[*span(0, 10, 12, "*"), *span(1, 2, 10)],
        *[*span(1, 10, 12, "*"), *span(2, 2, 10)],
        *span(2, 10, 12, "*"),
    ]
    assert [told for told, *_ in policy.asked[:3]] == [0, 10, 10]
    automatic, *_ = run(script, running=running(100, ask_ahead="auto"))
    assert executed(automatic) == executed(record)


def test_a_policy_that_answers_when_its_prefix_is_past_never_gets_a_fresh_action_in():
    # 600 ms: 12 steps, as long as the prefix. Full chunks still go on while the next one is asked for.
    record, *_ = run([(12, FULL)], running=running(600))
    assert executed(record) == [*["held 0"] * 12, *span(0, 12, 24, "*"), *span(1, 12, 24, "*"), *span(2, 12, 16, "*")]
    assert [row["executed"] for row in record.rounds] == [0, 0, 0, 0]
    assert [row["stale_dropped"] for row in record.rounds] == [12, 12, 12, 4]
    drafts, *_ = run([(12, FULL), (12, DRAFT)], running=running(600))
    # A draft of which all is past leaves the full chunk in hand, as far as that reaches.
    assert executed(drafts) == [*["held 0"] * 12, *span(0, 12, 40, "*")]
    assert drafts.episode["outcome"] == "horizon"  # slow is the policy's own failure, not an error


def test_the_previous_chunk_runs_out_and_the_robot_holds():
    record, *_ = run([(12, FULL)], running=running(2250))  # 45 steps; the first round is never answered in time
    assert executed(record) == ["held 0"] * 40
    simulator = Simulator()
    simulator.horizon = 80
    record, *_ = run([(12, FULL)], simulator, running=running(1500))  # 30 steps: 20 of the 50 are left
    assert executed(record) == [*["held 0"] * 30, *span(0, 30, 50, "*"), *["held 1"] * 10, *span(1, 30, 50, "*")]


def test_a_rejected_draft_costs_its_time_and_leaves_the_chunk_in_hand():
    record, policy, _ = run([(12, FULL), (0, DRAFT), (12, FULL)], running=running(100))
    assert executed(record)[:18] == [
        *["held 0", "held 0", *span(0, 2, 12)],
        *span(0, 12, 14, "*"),
        *span(0, 14, 16, "*"),
        *span(2, 2, 4),
    ]
    # The query after a rejected draft sees a new picture: time has passed.
    assert [int(obs["observation/image"].max()) for *_, obs in policy.asked[:3]] == [0, 12, 14]


def test_success_while_waiting_ends_the_episode_before_the_answer():
    record, *_ = run([(12, FULL)], Simulator(success_at=13), running=running(100))
    assert executed(record)[-1] == "0.12*" and record.episode["success"] and record.episode["steps"] == 13
    assert (record.rounds[1]["waited_steps"], record.rounds[1]["executed"]) == (1, 0)


def test_each_route_takes_its_own_time():
    by_route = running({"full": 100, "draft": 40})
    record, *_ = run([(12, FULL), (12, DRAFT)], running=by_route)
    assert [row["waited_steps"] for row in record.rounds[:3]] == [2, 1, 1]
    only_full = running({"full": 100, "draft": None})
    with pytest.raises(UserError, match="no latency of a draft round"):
        run([(12, FULL), (12, DRAFT)], running=only_full)


def test_the_measured_time_is_the_round_trip_at_the_client():
    made = clocks.read({"kind": "running", "hz": 500, "source": "measured"})
    record, *_ = run([(12, FULL)], running=Running(made, latency.load(made.source)))
    assert {row["latency_ms"] for row in record.rounds} == {6.0} and record.rounds[0]["waited_steps"] == 3


ROUND = st.tuples(st.integers(0, 50), st.sampled_from([FULL, DRAFT]))
COLUMNS = {"latency_ms": 0.0, "waited_steps": 0, "stale_dropped": 0}


@settings(deadline=None)
@given(
    script=st.lists(ROUND, min_size=1, max_size=8),
    replan=st.integers(1, 50),
    waiting=st.sampled_from(get_args(clocks.Waiting)),
    hz=st.sampled_from([20, 33.3, 100]),
    success=st.none() | st.integers(1, 40),
)
def test_without_latency_it_is_the_paused_clock_bit_for_bit(script, replan, waiting, hz, success):
    script = [*script, (12, FULL)]
    paused, asked, world = run(script, Simulator(success), replan_steps=replan)
    ran, asked_too, world_too = run(
        script, Simulator(success), replan_steps=replan, running=running(0, while_waiting=waiting, hz=hz)
    )
    assert world.taken == world_too.taken and world.rendered == world_too.rendered
    assert [row | COLUMNS for row in paused.rounds] == ran.rounds
    assert [row | {"stale": False} for row in paused.steps] == ran.steps
    assert [question[:3] for question in asked.asked] == [question[:3] for question in asked_too.asked]
    beside = ("wall_s", "started_at")
    assert [{k: v for k, v in r.episode.items() if k not in beside} for r in (paused, ran)].count(
        {k: v for k, v in paused.episode.items() if k not in beside}
    ) == 2


@settings(deadline=None)
@given(
    script=st.lists(ROUND, min_size=1, max_size=10),
    full_ms=st.floats(0, 1500),
    draft_ms=st.floats(0, 1500),
    ahead=st.integers(0, 15) | st.just("auto"),
    replan=st.integers(1, 20),
)
def test_every_control_step_executes_one_action_of_its_own_moment_whatever_the_policy_answers(
    script, full_ms, draft_ms, ahead, replan
):
    script = [*script, (12, FULL)]
    record, _, simulator = run(
        script, replan_steps=replan, running=running({"full": full_ms, "draft": draft_ms}, ask_ahead=ahead)
    )
    asked_at = {row["round"]: row for row in record.rounds}
    assert [row["step"] for row in record.steps] == list(range(40)) and len(simulator.taken) == 41
    for row in record.steps:
        source, offset = asked_at[row["round"]], row["offset_in_chunk"]
        under_way = max(r["round"] for r in record.rounds if r["env_step"] <= row["step"])
        assert row["stale"] == (row["round"] < under_way or offset is None)
        if offset is not None:
            assert row["step"] == source["env_step"] + offset >= source["env_step"] + source["waited_steps"]
            assert offset < (50 if source["route"] == "full" else source["accepted_prefix"])
    order = [row["round"] for row in record.steps if row["offset_in_chunk"] is not None]
    assert order == sorted(order)  # never an older chunk again
    assert sum(r["executed"] + r["waited_steps"] for r in record.rounds) == 40


def test_rounds_that_cost_nothing_and_accept_nothing_are_bounded_and_others_are_not():
    with pytest.raises(EpisodeError):
        run([(0, DRAFT)], running=running(0))
    record, *_ = run([(0, DRAFT)], running=running(50))
    assert record.episode["steps"] == 40 and record.episode["rounds"] == 40


# --- where latencies come from ---


@pytest.fixture
def rounds_table(tmp_path):
    path = tmp_path / "rounds.parquet"
    base = {field.name: None for field in schemas.ROUNDS} | {
        **{"arm": "a", "suite": "s", "task_id": 0, "init_state": 0, "repeat": 0, "env_step": 0, "accepted_prefix": 12},
        **{"executed": 12, "condition_applied": False, "noise_seed": "0"},
    }
    times = [("full", 30.0), ("full", 40.0), ("draft", 8.0), ("draft", 9.0), ("draft", 10.0)]
    rows = [
        base | {"round": i, "route": route, "roundtrip_ms": ms, "policy_ms": None if i == 4 else ms - 2}
        for i, (route, ms) in enumerate(times)
    ]
    schemas.write_table(path, rows, schemas.ROUNDS)
    return path


def test_a_replay_draws_from_the_rounds_of_the_same_route_and_always_the_same(rounds_table):
    replayed = latency.load(Replay(replay=str(rounds_table)))
    words = [seeds.derive(7, KEY, "latency", r) for r in range(200)]
    drafts = [replayed.of("draft", 99.0, w) for w in words]
    assert set(drafts) == {8.0, 9.0, 10.0} and {replayed.of("full", 99.0, w) for w in words} == {30.0, 40.0}
    assert drafts == [replayed.of("draft", 1.0, w) for w in words]
    assert set(latency.read_samples(rounds_table, "policy_ms")["draft"]) == {6.0, 7.0}  # one round has no such time


def test_a_replayed_episode_is_reproducible(rounds_table):
    made = clocks.read({"kind": "running", "hz": 200, "source": {"replay": str(rounds_table)}})
    records = [run([(12, FULL), (12, DRAFT)], running=Running(made, latency.load(made.source)))[0] for _ in range(2)]
    assert records[0].rounds == records[1].rounds and records[0].steps == records[1].steps
    assert len({row["latency_ms"] for row in records[0].rounds}) > 1


def test_a_profile_can_be_replayed_without_its_warm_up(tmp_path):
    columns = {"route": ["full", "full", "draft"], "policy_ms": [900.0, 30.0, 8.0], "warmup": [True, False, False]}
    pq.write_table(pa.table(columns), tmp_path / "profile.parquet")
    found = latency.read_samples(tmp_path / "profile.parquet", "policy_ms")
    assert {route: values.tolist() for route, values in found.items()} == {"full": [30.0], "draft": [8.0]}


def test_a_table_that_cannot_be_replayed_is_named(tmp_path, rounds_table):
    with pytest.raises(UserError, match=r"absent.parquet does not exist"):
        latency.load(Replay(replay=str(tmp_path / "absent.parquet")))
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        latency.load(Replay(replay=str(tmp_path / "text.parquet")))
    with pytest.raises(UserError, match="has changed since"):
        latency.load(Replay(replay=str(rounds_table), digest="0" * 64))
    pq.write_table(pa.table({"route": ["full"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no column 'roundtrip_ms'"):
        latency.load(Replay(replay=str(tmp_path / "other.parquet")))


def test_the_draw_does_not_touch_the_noise_and_hangs_on_the_round_alone():
    words = seeds.derive(7, KEY, "latency", 3)
    assert words == [7, 2, 2, 5, 1, 4, 3]
    assert np.random.default_rng(words).integers(1000) == np.random.default_rng(list(words)).integers(1000)


# --- settings ---


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("runing", "unknown value 'runing'"),
        ("pausd", "did you mean 'paused'"),
        ({"kind": "runing", "source": "measured"}, "did you mean 'running'"),
        ({"kind": "running"}, "clock: source: is missing"),
        ({"kind": "running", "source": "mesured"}, "did you mean 'measured'"),
        ({"kind": "running", "source": "measured", "herz": 20}, "unknown key 'herz'; did you mean 'hz'"),
        ({"kind": "running", "source": "measured", "hz": 0}, "hz: must be above 0"),
        ({"kind": "running", "source": "measured", "hz": True}, "hz: expected a number, not true or false"),
        ({"kind": "running", "source": "measured", "while_waiting": "holt"}, "did you mean 'hold'"),
        ({"kind": "running", "source": "measured", "ask_ahead": -1}, "ask_ahead"),
        ({"kind": "running", "source": {"constant": 58}}, "did you mean 'constant_ms'"),
        ({"kind": "running", "source": {"constant_ms": -1}}, "source.constant_ms: must be at least 0"),
        ({"kind": "running", "source": {"constant_ms": {"fll": 1}}}, "did you mean 'full'"),
        ({"kind": "running", "source": {"constant_ms": {"draft": 1}}}, "source.constant_ms.full: is missing"),
        ({"kind": "running", "source": {"replay": "a", "time": "policy_m"}}, "did you mean 'policy_ms'"),
        ({"kind": "running", "source": {"replay": "a", "constant_ms": 2}}, "unknown key 'source.constant_ms'"),
        ({"kind": "running", "source": {"constant_ms": 2, "time": "serve_ms"}}, "unknown key 'source.time'"),
    ],
)
def test_a_wrong_clock_gets_one_line(spec, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        clocks.read(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        "paused",
        {"kind": "running", "source": "measured"},
        {"kind": "running", "source": {"constant_ms": 58}, "hz": 50, "while_waiting": "hold", "ask_ahead": "auto"},
        {"kind": "running", "source": {"constant_ms": {"full": 33.2, "draft": 8.1}}},
        {"kind": "running", "source": {"replay": "a.parquet", "time": "policy_ms"}},
        {"kind": "running", "source": {"published": "paper/Torch-pi0"}},
    ],
)
def test_a_clock_spelled_out_is_the_same_clock(spec):
    made = clocks.read(spec)
    assert clocks.read("paused" if made is None else made.model_dump()) == made


def test_published_figures_are_looked_up_by_route():
    figures = {
        "latency": [
            {"source": "paper", "method": "Torch-pi0", "route": "full", "statistic": "mean", "ms": 58.0},
            {"source": "ours", "method": "FLASH", "route": "full", "statistic": "p50", "ms": 33.156},
            {"source": "ours", "method": "FLASH", "route": "draft", "statistic": "p50", "ms": 8.067},
            {"source": "ours", "method": "FLASH", "route": "all", "statistic": "p99", "ms": 592.75},
            {"source": "paper", "method": "FLASH", "route": "draft", "statistic": "fastest", "ms": 7.8},
        ]
    }

    def looked_up(name):
        made = clocks.resolved(clocks.read({"kind": "running", "source": {"published": name}}), lambda: figures)
        assert clocks.read(made.model_dump()) == made
        return made.source.constant_ms.full, made.source.draft_ms

    assert looked_up("ours/FLASH") == (33.156, 8.067) and looked_up("paper/Torch-pi0") == (58.0, None)
    for wrong in ("paper/FLASH", "paper/Torch-pi"):
        with pytest.raises(UserError, match="no published time of a full round"):
            looked_up(wrong)
    given = clocks.read({"kind": "running", "source": {"constant_ms": 5}})
    assert clocks.resolved(given, dict) is given


def test_scripts_answer_with_chunks_of_fifty():
    assert scripted.Policy([(12, FULL)]).infer({}, 0, True, []).actions.shape == (50, 7)
