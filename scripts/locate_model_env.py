"""Write where the model environment's interpreter is and what its devices are called (rule locate_model_env).

Imports no stage on purpose: every rollout depends on this file.
"""

import platform
import sys
from pathlib import Path

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run


def main(job: Job) -> None:
    """Write the handle by which other environments start a program in this one."""
    names = {"cpu": processor()}
    if "cuda" in job.params["devices"]:
        import torch

        names["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    provenance.json_dump({"python": own_interpreter(), "device": names}, job.output["handle"])


def own_interpreter() -> str:
    """Return this interpreter's path, from the project's root where it lies below: a clone may be moved."""
    python, root = Path(sys.executable), Path.cwd()
    return str(python.relative_to(root) if python.is_relative_to(root) else python)


def processor() -> str:
    """Return the CPU's name as the system knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
