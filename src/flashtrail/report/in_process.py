"""A papermill engine that runs a notebook's cells in this process: no kernel to start, nothing imported a second time.

IPython's own shell executes; what a kernel would send (streams, displays, results, errors) becomes the cell's outputs
as nbclient writes them. The notebook has its own `__main__`, no history and no profile of the user's; modules and the
environment are this process's. What a subprocess or native code prints goes where this process prints.
"""

from __future__ import annotations

import atexit
import base64
import builtins
import contextlib
import io
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from nbformat.v4 import new_output
from traitlets.config import Config

with contextlib.ExitStack() as _stack:
    if "gcsfs" not in sys.modules:  # papermill imports every cloud's client it finds: 0.7 s for files that lie here
        sys.modules["gcsfs"] = None  # type: ignore[assignment]
        _stack.callback(sys.modules.pop, "gcsfs")
    from papermill.engines import Engine, NotebookExecutionManager, papermill_engines

NAME = "flashtrail"
_SHELLS_OWN = ("display", "__IPYTHON__", "get_ipython")  # what a shell puts among the builtins, and leaves there
_LANGUAGE = {
    "name": "python",
    "version": sys.version.split()[0],
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "pygments_lexer": "ipython3",
    "nbconvert_exporter": "python",
    "file_extension": ".py",
}


class _Stream(io.TextIOBase):
    """stdout or stderr of a cell: text that directly follows text of the same stream is one output."""

    encoding = "utf-8"

    def __init__(self, shell: _Shell, name: str) -> None:
        self._shell, self._name = shell, name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Append to the cell's outputs."""
        outputs = self._shell.outputs
        if outputs and outputs[-1].get("name") == self._name:
            outputs[-1].text += text
        elif text:
            outputs.append(new_output("stream", name=self._name, text=text))
        return len(text)


class _Publisher(DisplayPublisher):
    """`display(...)`, its updates by id, and `clear_output`."""

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *_: Any,
        transient: Mapping[str, Any] | None = None,
        update: bool = False,
        **_named: Any,
    ) -> None:
        """Append one display to the cell's outputs, or renew those of its id."""
        shown = self.shell.shown.setdefault((transient or {}).get("display_id"), [])
        content = {"data": _encoded(data), "metadata": dict(metadata or {})}
        if update:
            for output in shown:
                output.update(content)
            return
        shown.append(new_output("display_data", **content))
        self.shell.outputs.append(shown[-1])

    def clear_output(self, wait: bool = False) -> None:
        """Forget what the cell has shown."""
        self.shell.outputs.clear()


class _Hook(DisplayHook):
    """The value of a cell's last expression."""

    shell: Any

    def write_output_prompt(self) -> None:
        """Print nothing: the output carries the cell's number."""

    def finish_displayhook(self) -> None:
        """End the display; print nothing."""
        self._is_active = False

    def write_format_data(self, format_dict: Mapping[str, Any], md_dict: Mapping[str, Any] | None = None) -> None:
        """Append the value to the cell's outputs."""
        self.shell.outputs.append(
            new_output(
                "execute_result",
                execution_count=self.prompt_count,
                data=_encoded(format_dict),
                metadata=dict(md_dict or {}),
            )
        )


def _encoded(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a display's forms as JSON holds them: pictures in base64."""
    return {
        kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value for kind, value in data.items()
    }


class _Shell(InteractiveShell):
    """IPython's shell whose outputs are a list."""

    def __init__(self, **named: Any) -> None:
        self.outputs: list[Any] = []
        self.shown: dict[Any, list[Any]] = {}
        super().__init__(display_pub_class=_Publisher, displayhook_class=_Hook, **named)

    def init_virtualenv(self) -> None:
        """Leave sys.path alone."""

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        self.outputs.append(new_output("error", ename=etype.__name__, evalue=str(evalue), traceback=stb))


@contextlib.contextmanager
def _shell() -> Iterator[_Shell]:
    """Return a shell of its own; afterwards this process is as it was: builtins, `__main__`, sys.path, warnings."""
    main, path = sys.modules["__main__"], list(sys.path)
    before = {name: vars(builtins)[name] for name in _SHELLS_OWN if name in vars(builtins)}
    with tempfile.TemporaryDirectory(prefix="flashtrail-notebook-") as scratch, warnings.catch_warnings():
        config = Config({"HistoryManager": {"enabled": False, "hist_file": ":memory:"}})
        shell = _Shell.instance(
            ipython_dir=scratch,
            profile_dir=ProfileDir(location=str(Path(scratch, "profile"))),
            user_module=ModuleType("__main__"),
            config=config,
        )
        sys.path.insert(0, "")  # as a kernel's: what lies beside the notebook's working directory
        try:
            yield shell
        finally:
            atexit.unregister(shell.atexit_operations)
            shell.atexit_operations()
            shell.restore_sys_module_state()
            _Shell.clear_instance()
            sys.modules["__main__"], sys.path[:] = main, path
            for name in _SHELLS_OWN:
                vars(builtins).pop(name, None)
            vars(builtins).update(before)


class InProcess(Engine):  # type: ignore[misc]
    """papermill's engine `flashtrail`: the first cell that fails is the last one executed."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **_: Any) -> None:
        """Execute the cells in order; papermill keeps the times and raises what an error output says."""
        with _shell() as shell:
            for number, cell in enumerate(nb_man.nb.cells):
                nb_man.cell_start(cell, number)
                try:
                    if cell.cell_type == "code" and cell.source.strip() and not _execute(shell, cell):
                        nb_man.cell_exception(cell, number)
                        break
                finally:
                    nb_man.cell_complete(cell, number)
        nb_man.nb.metadata["language_info"] = dict(_LANGUAGE)


def _execute(shell: _Shell, cell: Any) -> bool:
    """Execute one cell and fill in its number and outputs; return whether it succeeded."""
    shell.outputs = cell.outputs
    cell.execution_count = shell.execution_count
    with contextlib.redirect_stdout(_Stream(shell, "stdout")), contextlib.redirect_stderr(_Stream(shell, "stderr")):
        result = shell.run_cell(cell.source, store_history=True)
    if isinstance(result.error_in_exec, KeyboardInterrupt):
        raise result.error_in_exec
    return bool(result.success)


papermill_engines.register(NAME, InProcess)
