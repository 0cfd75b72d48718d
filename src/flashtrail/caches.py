"""Where libraries keep their caches when the user's home cannot be written: below the project, else a private folder.

Set-up has every interpreter of .venv call `settle` as it starts, before any library looks (flashtrail.pth); the
workflow does so for conda's environments. Credentials stay where they are: only what is written moves. Standard
library only, since each start pays for it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of the libraries in envs/*.yaml, what each reads and the folder that it gets.
_PLACES = {
    "XDG_CACHE_HOME": "cache",  # snakemake, matplotlib, fontconfig
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",  # where robosuite's own folder cannot be written either
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter",
    "JUPYTER_DATA_DIR": "jupyter",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
}


def settle() -> None:
    """Name private folders to the libraries of this process and its children, unless the home can be written."""
    home = os.path.expanduser("~")  # noqa: PTH111 (Path.home raises where there is none)
    if os.access(home, os.W_OK | os.X_OK):
        return
    wanted = {name: folder for name, folder in _PLACES.items() if name not in os.environ}
    if wanted:
        place = _place()
        os.environ.update({name: os.path.join(place, folder) for name, folder in wanted.items()})  # noqa: PTH118
    # The hub's token lies in its cache, and XDG_CACHE_HOME moves that.
    os.environ.setdefault("HF_TOKEN_PATH", os.path.join(home, ".cache/huggingface/token"))  # noqa: PTH118


def _place() -> str:
    """Return a folder that only this user can write."""
    kept = ROOT / ".snakemake" / "caches"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        if os.access(kept, os.W_OK | os.X_OK):
            return str(kept)
    except OSError:
        pass  # the project is somebody else's
    private = tempfile.mkdtemp(prefix="flashtrail-caches-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private
