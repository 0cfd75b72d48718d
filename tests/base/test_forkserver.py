"""A fork server's forks: what a script does in one is what it does in the interpreter; where that is not sure, none."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashtrail.base import forkserver, provenance

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no abstract sockets: no fork server")
PARENT = "import os\nprint(os.getppid(), flush=True)\n"


class Jobs:
    """Jobs of a run that has a fork server."""

    def __init__(self, started: forkserver.Started, home: Path, environment: dict[str, str]) -> None:
        self.started, self._home, self._environment = started, home, environment
        self.package = home / "flashtrail"  # a copy, to be edited

    def script(self, text: str, name: str = "script.py") -> str:
        """Write a script as Snakemake writes its copy of one."""
        path = self._home / f"tmp12345678.{name}"
        path.write_text(text)
        return str(path)

    def forked(self, text: str, *arguments: str, name: str = "script.py", **more: str) -> subprocess.Popen[str]:
        """Start a script as a job is started."""
        return self._popen([*shlex.split(self.started.words), self.script(text, name), *arguments], more)

    def plain(self, text: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start it in the interpreter."""
        return self._popen([sys.executable, self.script(text), *arguments], more)

    def was_forked(self, text: str = PARENT, name: str = "script.py", **more: str) -> bool:
        """Run a script that prints its parent; return whether that is the server."""
        said, _ = self.forked(text, name=name, **more).communicate(timeout=60)
        return int(said.split()[0]) == self.started.process.pid

    def _popen(self, command: list[str], more: dict[str, str]) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = self._environment | more
        return subprocess.Popen(command, cwd=self._home, env=environment, text=True, start_new_session=True, **pipes)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """A run's jobs of one thread, of which those of script.py and slow.py are forked."""
    for part in ("__init__.py", "caches.py"):
        (tmp_path / "flashtrail").mkdir(exist_ok=True)
        shutil.copy2(provenance.PACKAGE_ROOT / part, tmp_path / "flashtrail" / part)
    shutil.copytree(provenance.PACKAGE_ROOT / "base", tmp_path / "flashtrail/base")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = forkserver.start(scripts={"script.py": ["flashtrail.base.names"], "slow.py": []})
    assert started is not None
    threads = ("OMP_NUM", "GOTO_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMEXPR_NUM", "VECLIB_MAXIMUM")
    yield Jobs(started, tmp_path, {**os.environ, **{f"{name}_THREADS": "1" for name in threads}})
    started.stop()


ENDS = {
    "well": "print(sys.argv[1:], os.getcwd(), __name__, __file__, sys.stdin.read(), sys.path[0])",
    "places": "print(os.environ['TMPDIR'], tempfile.gettempdir())",
    "code": "sys.exit(3)",
    "nothing": "sys.exit()",
    "words": "sys.exit('the disk is full')",
    "bug": "1 / 0",
    "at its end": "import atexit; atexit.register(print, 'last'); print('first')",
    "thread": "import threading; threading.Timer(0.3, print, ['later']).start()",
    "child": "import subprocess; print(subprocess.run(['sh', '-c', 'echo $TMPDIR; exit 5']).returncode)",
    "import": "import no_such_module",
    "streams": "[s.reconfigure(encoding='utf-8', write_through=True) for s in (sys.stdout, sys.stderr)]; print('ü')",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_script_says_and_ends_in_a_fork_as_in_the_interpreter(jobs, tmp_path, end):
    found = []
    for start in (jobs.forked, jobs.plain):
        process = start(f"import os\nimport sys\nimport tempfile\n{ENDS[end]}", "a", "b c", TMPDIR=str(tmp_path))
        out, error = process.communicate("in", timeout=60)
        found.append((out, error.splitlines()[-1:], process.returncode))
    assert found[0] == found[1]
    assert jobs.was_forked()


def test_a_module_is_imported_once_for_all_jobs_of_a_script(jobs):
    """Those that a script names before anything else, and those that are named for it."""
    tell = "print(os.getppid(), id(flashtrail.base.errors), 'flashtrail.base.names' in sys.modules)"
    said = {
        jobs.forked(f"import os, sys\nimport flashtrail.base.errors\n{tell}").communicate(timeout=60)[0]
        for _ in range(2)
    }
    (once,) = said
    assert once.split()[0] == str(jobs.started.process.pid) and once.endswith("True\n")
    late = "if True:\n    import os, sys\nprint(os.getppid(), 'flashtrail.base.documents' in sys.modules)\n"
    said, _ = jobs.forked(f"{late}import flashtrail.base.documents\n", name="slow.py").communicate(timeout=60)
    assert said.split() == [str(jobs.started.process.pid), "False"]


def test_where_a_fork_could_differ_there_is_none(jobs):
    assert jobs.was_forked() and jobs.was_forked(TMPDIR="/")
    assert not jobs.was_forked(name="other.py"), "not one of those that are forked"
    assert not jobs.was_forked(OMP_NUM_THREADS="2")
    assert not jobs.was_forked(MPLBACKEND="svg")
    module = jobs.package / "base/names.py"
    module.write_text(module.read_text() + "# edited\n")
    assert not jobs.was_forked()


def test_a_thread_that_an_import_started_would_be_lost(jobs):
    (jobs.package / "busy.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[60], daemon=True).start()\n"
    )
    assert not jobs.was_forked(f"import flashtrail.busy\n{PARENT}")


def test_without_its_server_a_job_runs_in_the_interpreter(jobs):
    assert jobs.was_forked()
    long = jobs.forked(f"{PARENT}input()", name="slow.py")
    assert long.stdout.readline()
    jobs.started.process.kill()
    jobs.started.process.wait()
    assert not jobs.was_forked()
    assert long.communicate("go on\n", timeout=60) == ("", "") and long.returncode == 0, "a fork outlives its server"


def test_ctrl_c_ends_a_fork_as_it_ends_a_script(jobs):
    """It is sent to the job and to its fork, and to the server, which goes on."""
    job = jobs.forked("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    pid = int(job.stdout.readline())
    while not ignores(job.pid, signal.SIGINT):  # it knows of its fork
        time.sleep(0.01)
    for one in (job.pid, jobs.started.process.pid, pid):
        os.kill(one, signal.SIGINT)
    job.communicate(timeout=60)
    assert job.returncode == 130
    assert jobs.was_forked()


def ignores(pid: int, number: int) -> bool:
    (ignored,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn")]
    return bool(int(ignored.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_a_fork_that_ends_without_a_word_is_a_failed_job(jobs, end):
    job = jobs.forked(f"{PARENT}{end}")
    assert job.communicate(timeout=60) == (f"{jobs.started.process.pid}\n", "")
    assert job.returncode == 1


def test_who_says_nothing_or_nonsense_holds_up_nobody(jobs):
    *_, address, _ = shlex.split(jobs.started.words)
    for said in (b"", b"{", b"[]", b'{"command": [], "environment": {}}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(f"\0{address}")
            if said:
                stranger.send(said)
            assert stranger.recv(16) in (b"", b"no")
    assert jobs.was_forked()
