"""What the simulator needs from the system, and the one line to say when it is not there.

Off-screen rendering fails in as many ways as there are layers (an ImportError in cv2, an AttributeError in PyOpenGL, a
crash in MuJoCo), so the cause is looked for where it is: in the shared libraries.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import io
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from flashtrail.base.errors import UserError

APT_LINE = "apt-get install -y libosmesa6 libgl1 libegl1 libgl1-mesa-dri libglib2.0-0"
# cv2 (imported by robosuite) links the last two whatever the backend is.
_OPENCV = {"GL": "libGL.so.1", "gthread-2.0": "libgthread-2.0.so.0"}
_BACKEND = {"osmesa": {"OSMesa": "libOSMesa.so.8"}, "egl": {"EGL": "libEGL.so.1"}, "glfw": {}}


def choose_backend() -> str:
    """Set the rendering backend of this process if nobody has, and return it (``osmesa`` needs no display).

    Must run before MuJoCo and robosuite are imported. One software-rendering thread: a second gains nothing
    (docs/rollouts.md).
    """
    backend = os.environ.setdefault("MUJOCO_GL", "osmesa")
    os.environ.setdefault("PYOPENGL_PLATFORM", backend)
    os.environ.setdefault("LP_NUM_THREADS", "1")
    _silence_robosuite()
    return backend


def _silence_robosuite() -> None:
    """Keep robosuite from logging to one file for all users in the system's temporary folder, by its private macros."""
    macros = types.ModuleType("robosuite.macros_private")
    macros.__dict__.update(FILE_LOGGING_LEVEL=None, CONSOLE_LOGGING_LEVEL="ERROR")
    sys.modules.setdefault(macros.__name__, macros)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow the notices that a simulator prints while it is imported and built."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def keep_contexts_apart() -> None:
    """Let robosuite draw and free in the right OpenGL context where a process has had two simulators.

    robosuite draws in whichever context is current, and a simulation that is collected late deletes its textures and
    display lists there: both contexts number them from 1, so the living one loses its own and draws an empty scene.
    """
    from robosuite.utils.binding_utils import MjRenderContext

    def in_its_own(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **named: Any) -> Any:
            if hasattr(self, "gl_ctx"):  # it could be made
                self.gl_ctx.make_current()
                return method(self, *args, **named)
            return None

        return call

    if not hasattr(MjRenderContext.render, "__wrapped__"):
        MjRenderContext.render = in_its_own(MjRenderContext.render)
        MjRenderContext.__del__ = in_its_own(MjRenderContext.__del__)


def missing_libraries() -> list[str]:
    """Names of the shared libraries that rendering needs and the loader does not find."""
    wanted = {**_BACKEND.get(os.environ.get("MUJOCO_GL", "osmesa"), {}), **_OPENCV}
    return [soname for name, soname in wanted.items() if not _loads(name, soname)]


def explain(error: BaseException) -> UserError:
    """Return the one line for a simulator that could not be imported or could not render."""
    missing = missing_libraries()
    if missing:
        return UserError(f"no OpenGL library for rendering ({', '.join(missing)} not found): {APT_LINE}")
    if isinstance(error, OSError) and error.filename:
        return UserError(
            f"the simulator cannot open {error.filename} ({error.strerror}): let this user read and write it, "
            "or make room"
        )
    backend = os.environ.get("MUJOCO_GL", "osmesa")
    cause = f"{type(error).__name__}: {error}"
    return UserError(
        f"the simulator cannot render here with MUJOCO_GL={backend} ({cause}): use MUJOCO_GL=osmesa "
        f"PYOPENGL_PLATFORM=osmesa, or install its libraries: {APT_LINE}"
    )


def _loads(name: str, soname: str) -> bool:
    for candidate in (soname, ctypes.util.find_library(name)):
        try:
            if candidate and ctypes.CDLL(candidate):
                return True
        except OSError:
            continue
    return False
