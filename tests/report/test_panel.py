"""The live panel on a terminal's screen: what it says, what it leaves alone, and what becomes of it in trouble."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest
from report.terminal import opened
from report.test_live import NAMES, Run

from flashtrail.experiment import outlook
from flashtrail.experiment.outlook import Asked, Ended, Failed, Shard, Standing, State
from flashtrail.report import live, panel

XTERM = {"TERM": "xterm-256color"}
LINES = ["━" * 80, "12 of 69 episodes", "roll out shard", "so far   clean 1/2"]


def asked(shard: Shard, at_work: bool = False) -> Asked:
    about = {"arm": shard.arm, "task_id": shard.task_id, "expected": shard.expected}
    return Asked(**about, counts=True, finished=not at_work, at_work=at_work)


def standing(*failed: Failed) -> tuple[Standing, dict[Shard, State]]:
    clean, blind = (Shard(arm, 1, Path(arm), NAMES) for arm in ("clean", "blind"))
    ends = {name: Ended(990.0 + place, 9.0, 20) for place, name in enumerate(NAMES[:2])}
    states = {clean: State(dict.fromkeys(NAMES, "horizon")), blind: State(dict.fromkeys(ends, "success"), (), ends)}
    now = Standing(
        started_at=760.0,
        written_at=1000.0,
        ended=False,
        running="roll out shard",
        left_s=540.0,
        jobs=(23, 173),
        failed=failed,
        shards=(asked(clean), asked(blind, at_work=True)),
    )
    return now, states


def test_what_it_says_on_a_wide_terminal():
    # 40 rounds from second 981 to second 1000
    assert panel.lines(*standing(), 80) == [
        "━" * 67 + "─" * 13,
        "5 of 6 episodes   about 9 min left   2.1 rounds/s   4 min so far",
        "roll out shard   blind task 1 2/2",
        "so far   blind 2/2   clean 0/3",
    ]
    assert panel.lines(*standing(), 120)[1].endswith("4 min so far   23 of 173 jobs")


def test_what_it_says_on_a_narrow_terminal():
    assert panel.lines(*standing(), 40) == [
        "━" * 33 + "─" * 7,
        "5 of 6 episodes   about 9 min left",
        "2.1 rounds/s   4 min so far",
        "roll out shard   blind task 1 2/2",
        "so far   blind 2/2   clean 0/3",
        "",
    ]
    now, states = standing()
    many = {replace(shard, arm=f"{shard.arm}_{n}_{'x' * 60}"): s for n in range(9) for shard, s in states.items()}
    for columns in (40, 80, 200):
        assert all(len(line) <= columns for line in panel.lines(now, many, columns))


def test_a_failed_job_takes_the_place_of_what_is_less_urgent():
    failed = Failed(job="roll_out_shard clean 0", log="results/logs/x.log")
    assert panel.lines(*standing(failed), 80)[-1] == "FAILED roll_out_shard clean 0: see results/logs/x.log"


ASKED = "import sys; from flashtrail.report import panel; sys.exit(not panel.terminal(sys.stderr))"


@pytest.mark.parametrize(
    ("variables", "drawn"),
    [
        (XTERM, True),
        ({}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "no-such-terminal"}, False),
        ({**XTERM, "NO_COLOR": "1"}, False),
        ({**XTERM, "CI": "true"}, False),
    ],
    ids=["xterm", "nothing", "dumb", "unknown", "no colour", "ci"],
)
def test_where_a_panel_is_drawn(variables, drawn):
    """In a process of its own: a process can ask for one terminal only."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(panel.__file__).parents[2]), **variables}
    with opened() as terminal:
        command = [sys.executable, "-c", ASKED]
        assert subprocess.run(command, env=environment, stderr=terminal.slave).returncode == (not drawn)
    if drawn:
        piped = subprocess.run(command, env=environment, stderr=subprocess.PIPE)
        assert piped.returncode == 1 and piped.stderr == b"", "no terminal"


def test_rounds_per_second_are_those_of_the_last_two_minutes():
    one = State(ended={"a": Ended(1000.0, 50.0, 100), "b": Ended(1090.0, 10.0, 40), "c": Ended(600.0, 9.0, 999)})
    assert outlook.rate([one, State()], 1100.0) == pytest.approx(140 / 120)
    assert outlook.rate([one], 1090.0) == pytest.approx(140 / 120), "since 970: an episode began before"
    assert outlook.rate([one], 1130.0) == pytest.approx(40 / 50)
    assert outlook.rate([one], 1211.0) is None and outlook.rate([], 0.0) is None


def test_what_other_processes_print_scrolls_above_it():
    with opened(80, 24) as terminal, open(terminal.slave, "w", closefd=False) as stream:
        drawn = panel.Panel(stream)
        stream.write("half a line")
        stream.flush()
        drawn.draw(LINES)
        command = ["sh", "-c", "for i in $(seq 60); do echo line $i; done; printf 'no end'"]
        subprocess.run(command, stdout=terminal.slave, check=True)
        drawn.draw(LINES)
        screen = terminal.read()
        assert screen.lines[-4:] == LINES
        assert screen.lines[18:20] == ["line 60", "no end"] and (screen.row, screen.column) == (19, 6)
        said = screen.text().splitlines()
        assert said[:60] == ["half a lineline 1", *(f"line {i}" for i in range(2, 61))], "none is lost"
        drawn.close()
        drawn.close()
        subprocess.run(["sh", "-c", "echo .; seq 30"], stdout=terminal.slave, check=True)
        screen = terminal.read()
        assert screen.region == (0, 23) and screen.wraps, "the terminal is whole again"
        assert not any(line in screen.text() for line in LINES) and screen.lines[-2:] == ["30", ""]


@pytest.mark.parametrize("size", [(40, 20), (40, 24), (80, 14), (120, 40)])
def test_the_terminal_gets_another_size(size):
    with opened(80, 24) as terminal, open(terminal.slave, "w", closefd=False) as stream:
        drawn = panel.Panel(stream)
        subprocess.run(["seq", "100"], stdout=terminal.slave, check=True)
        drawn.draw(LINES)
        terminal.resize(*size)
        subprocess.run(["seq", "101", "103"], stdout=terminal.slave, check=True)  # before the panel notices
        rows = ["-" * size[0], "a", "b", "c", "d", "e"]
        drawn.draw(rows)
        subprocess.run(["seq", "104", "130"], stdout=terminal.slave, check=True)
        screen = terminal.read()
        assert screen.lines[-6:] == rows and screen.lines[-8:-6] == ["130", ""]
        said = [int(found[0]) for line in screen.text().splitlines() if (found := re.match(r"\d+", line))]
        assert said == list(range(1, 131)), "each is there, those before the panel noticed over what it had drawn"
        assert drawn.size() == size
        terminal.resize(80, 10)
        assert drawn.size() is None, "too small"


STOPPED = """
import sys, threading, time
from flashtrail.report import panel
drawn = panel.Panel(sys.stderr)
panel.release_when_stopped(drawn)
def draw():
    while True:
        if drawn.size():
            drawn.draw(["-" * 80, "one", "two", "three"])
        time.sleep(0.1)
threading.Thread(target=draw, daemon=True).start()
time.sleep(600)
"""


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_draws_it_again():
    def own() -> None:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)  # where whoever started the tests ignores it
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(panel.__file__).parents[2]), **XTERM}
    with opened(80, 24) as terminal:
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
        drawing = subprocess.Popen([sys.executable, "-c", STOPPED], env=environment, preexec_fn=own, **ends)
        try:
            terminal.wait(lambda screen: screen.lines[-1] == "three")
            os.write(terminal.master, b"\x1a")
            assert os.WIFSTOPPED(os.waitpid(drawing.pid, os.WUNTRACED)[1])
            screen = terminal.read(1.0)
            assert "three" not in screen.text() and screen.region == (0, 23)
            drawing.send_signal(signal.SIGCONT)
            terminal.wait(lambda screen: screen.lines[-1] == "three" and screen.region == (0, 19))
        finally:
            drawing.kill()
            drawing.wait()


def watched(run: Run, drawn: panel.Panel) -> live.Watch:
    graph = live.Graph(run.shards, run.done.__contains__, lambda: run.rules)
    return live.Watch(graph, run.said.append, lambda: run.now, drawn)


def test_beside_the_panel_lines_say_only_what_is_new_and_the_last_one_how_it_ended(tmp_path):
    run = Run(tmp_path, arms=["clean"], tasks=[0])
    with opened(80, 24) as terminal, open(terminal.slave, "w", closefd=False) as stream:
        watch = watched(run, panel.Panel(stream))
        watch.look()
        run.begin(0)
        run.now = 600
        watch.look()
        assert len(run.said) == 1, "minutes are the panel's"
        assert terminal.read().lines[-3].startswith("0 of 3 episodes")
        run.play(0, "success", "horizon", "success")
        watch.look()
        assert run.said[1:] == ["10 min: 3 of 3 episodes; roll out shard; clean complete: 2/3"]
        watch.look(ended=True)
        assert run.said[2:] == ["10 min: 3 of 3 episodes; the run has stopped: the same command goes on"]
        assert terminal.read().text().strip() == "" and terminal.screen.region == (0, 23)


def test_trouble_with_the_terminal_ends_the_panel_and_lines_go_on(tmp_path):
    run = Run(tmp_path, arms=["clean"], tasks=[0])
    with opened(80, 24) as terminal:
        descriptor = os.dup(terminal.slave)
        with open(descriptor, "w", closefd=False) as stream:
            watch = watched(run, panel.Panel(stream))
            watch.look()
            os.close(descriptor)
            for run.now in (30, 61, 90, 122):
                watch.look()
    assert [line.partition(":")[0] for line in run.said] == ["1 s", "61 s", "2 min"] and watch.panel is None
