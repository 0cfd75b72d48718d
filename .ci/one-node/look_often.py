"""Snakemake, asking SLURM every two seconds: its executor waits ten seconds longer after each look that saw no end.

That spares a site's controller. Here it is ours, and most jobs take less than the wait. Everything else is as for
`python -m snakemake`; the jobs themselves start that.
"""

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda self: 2, lambda self, seconds: None)

if __name__ == "__main__":
    main()
