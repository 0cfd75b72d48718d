"""Notebooks run in this process as they run in a kernel: the same outputs, the same ends, and nothing left behind."""

import builtins
import json
import os
import re
import sys

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from flashtrail.base.errors import UserError
from flashtrail.report import in_process, rendering

CELLS = """
inputs = {}
---
import os, sys, warnings
from IPython.display import HTML, Markdown, Image, clear_output, update_display
print("one"); print("two", end=""); print("three")
---
print("four", file=sys.stderr)
---
display(HTML("<b>shown</b>"), Markdown("*also*"), display_id="first")
5 + 37
---
# nothing is shown
x = [1, 2]
---
update_display(HTML("<b>renewed</b>"), display_id="first")
x
---
print("forgotten"); clear_output(); print("kept")
Image(data=bytes.fromhex("89504e470d0a1a0a0000000d494844520000000100000001080000000"
      "03a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"))
---
class Picture:
    def __repr__(self): return "a picture"
    def _repr_png_(self): return b"\\x89PNG"
    def _repr_html_(self): return "<i>p</i>"
Picture()
---
_ , __name__, __builtins__.__name__, get_ipython().execution_count
---
import asyncio
await asyncio.sleep(0)
x;
"""


def notebook(path, text):
    cells = [nbformat.v4.new_code_cell(source.strip("\n")) for source in text.split("---")]
    cells[0].metadata["tags"] = ["parameters"]
    cells.insert(1, nbformat.v4.new_markdown_cell("# Words"))
    language = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": language}), path)
    return path


def executed(path, engine):
    target = path.with_name(f"{engine}.ipynb")
    options = {"kernel_name": "python3", "progress_bar": False, "parameters": {"inputs": {"a": 1}}}
    error = None
    try:
        papermill.execute_notebook(str(path), str(target), engine_name=engine, **options)
    except PapermillExecutionError as raised:
        error = (raised.ename, raised.cell_index, raised.exec_count)
    made = nbformat.read(target, 4)
    nbformat.validate(made)
    return made, error


def what_is_compared(made):
    for cell in made.cells:
        outputs = [o for o in cell.get("outputs", []) if "To exit: use" not in o.get("text", "")]  # pytest takes ours
        for output in outputs:
            output.pop("traceback", None)
            if "evalue" in output:
                output["evalue"] = re.sub(r"\(\d+\.py,|\(<ipython-input-\S+>,", "(CELL,", output["evalue"])
        yield cell.cell_type, cell.source, cell.get("execution_count"), json.dumps(outputs, sort_keys=True)


def ends(text):
    """The same start, then a cell that ends the notebook, then one that is not reached."""
    return f"inputs = {{}}\n---\nprint('before')\n---\n{text}\n---\nprint('after')"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        CELLS,
        ends("print('here')\nraise ValueError('of <this> kind')"),
        ends("import sys; sys.exit(0)"),
        ends("import sys; sys.exit('no')"),
        ends("def f(:"),
        ends("%nothing_such"),
    ],
    ids=["shows", "raises", "exits", "exits with words", "is not Python", "is not a magic"],
)
def test_outputs_and_errors_are_a_kernels(tmp_path, text):
    path = notebook(tmp_path / "n.ipynb", text)
    (ours, our_error), (kernels, kernels_error) = executed(path, in_process.NAME), executed(path, "nbclient")
    assert list(what_is_compared(ours)) == list(what_is_compared(kernels))
    assert our_error == kernels_error
    assert ours.metadata.language_info == kernels.metadata.language_info
    assert [c.metadata.papermill.status for c in ours.cells if "papermill" in c.metadata] == [
        c.metadata.papermill.status for c in kernels.cells if "papermill" in c.metadata
    ]


def rendered(tmp_path, text):
    path = notebook(tmp_path / "n.ipynb", text)
    rendering.render(path, tmp_path / "o.ipynb", tmp_path / "o.html", {"a": "b"})
    return nbformat.read(tmp_path / "o.ipynb", 4).cells


def test_cells_run_in_this_process_which_is_afterwards_as_it_was(tmp_path):
    def state():
        return sys.modules["__main__"], list(sys.path), set(vars(builtins)), sys.stdout, sys.displayhook, sys.excepthook

    before, home = state(), dict(os.environ)
    cells = rendered(tmp_path, "inputs = {}\n---\nimport os; mine = inputs; os.getpid()")
    assert cells[-1].outputs[0].data["text/plain"] == str(os.getpid())
    again = rendered(tmp_path, "inputs = {}\n---\n'mine' in globals(), __import__('__main__').inputs")
    assert again[-1].outputs[0].data["text/plain"] == "(False, {'a': 'b'})"
    assert state() == before and dict(os.environ) == home
    assert sorted(p.name for p in tmp_path.iterdir()) == ["n.ipynb", "o.html", "o.ipynb"]


def test_a_users_error_is_one_line_another_keeps_its_traceback_and_an_interrupt_is_one(tmp_path):
    raises = "inputs = {}\n---\nfrom flashtrail.base.errors import UserError\nraise %s"
    with pytest.raises(UserError, match=r"^n\.ipynb: give another$"):
        rendered(tmp_path, raises % "UserError('give another')")
    with pytest.raises(PapermillExecutionError, match="ValueError: broken"):
        rendered(tmp_path, raises % "ValueError('broken')")
    with pytest.raises(KeyboardInterrupt):
        rendered(tmp_path, raises % "KeyboardInterrupt")
    assert [p.name for p in tmp_path.iterdir()] == ["n.ipynb"]
