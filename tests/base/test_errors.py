"""The line that a user reads, and the cause that a text gives away."""

from __future__ import annotations

import traceback

import pytest

from flashtrail.base.errors import UserError, cause

CUDA = """Traceback (most recent call last):
  File "server.py", line 10, in infer
    actions = model(x)
              ^^^^^^^^
  File "model.py", line 3, in model
    return x.to("cuda")
RuntimeError: CUDA error: an illegal memory access was encountered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.

"""
CUDA_CAUSE = "RuntimeError: CUDA error: an illegal memory access was encountered"


def raised(function) -> str:
    try:
        function()
    except BaseException as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError("nothing was raised")


def chained() -> None:
    raise ValueError("no state\nsecond line\n  third, indented") from KeyError("state")


def while_handling() -> None:
    try:
        {}["state"]
    except KeyError:
        int("x")


def grouped() -> None:
    raise ExceptionGroup("two", [ValueError("first"), TypeError("second")])


def noted() -> None:
    error = ValueError("the cause")
    error.add_note("a note: Error: not this")
    raise error


def endless() -> None:
    def again() -> None:
        again()

    again()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CUDA, CUDA_CAUSE),
        ("\n".join(CUDA.strip().splitlines()[6:]), CUDA_CAUSE),  # as an error frame without frames of a stack
        (raised(chained), "ValueError: no state"),
        (raised(while_handling), "ValueError: invalid literal for int() with base 10: 'x'"),
        (raised(grouped), "ExceptionGroup: two (2 sub-exceptions)"),
        (raised(noted), "ValueError: the cause"),
        (raised(endless), "RecursionError: maximum recursion depth exceeded"),
        (raised(lambda: compile("a b", "x", "exec")), "SyntaxError: invalid syntax"),
        (raised(lambda: exec("raise KeyboardInterrupt")), "KeyboardInterrupt"),
        ("", ""),
        ("\n  \n", ""),
        ("server is full\ntry again later\n", "server is full"),
        (
            "warming up\ntorch.cuda.OutOfMemoryError: CUDA out of memory\nhint: less",
            "torch.cuda.OutOfMemoryError: CUDA out of memory",
        ),
        ("Traceback (most recent call last):\n  File cut off", "Traceback (most recent call last):"),
    ],
)
def test_the_cause_is_the_exception_that_was_raised_and_no_advice_that_follows(text, line):
    assert cause(text) == line


def test_a_line_stays_a_line_whatever_is_put_into_it():
    assert str(UserError("a\n b\tc")) == "a b c"
    assert str(UserError("\x1b[2Jgone\x00 \ud800")) == "\\x1b[2Jgone\\x00 \\ud800"
    assert str(UserError("été – „so“")) == "été – „so“"
    long = str(UserError("start " + "x" * 10_000 + " end"))
    assert len(long) < 2100 and long.startswith("start ") and long.endswith(" end")
