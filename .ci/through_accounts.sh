#!/usr/bin/env bash
# Accounts as docs/workflow.md describes them, where SLURM enforces them, for real:
# .ci/slurm.sh --accounting .ci/through_accounts.sh (in a checkout with .venv; fetches MariaDB, so no stage of .ci/run).
# Ends of jobs are read from sacct.
set -euo pipefail
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
as_site() { # as_site [RESOURCE]: one job, the shortest that is submitted, with .ci/one-node's overlay
    sed "s/^default-resources: \[/&${1:+$1, }/" .ci/one-node/profile.yaml >"$site/profile.yaml"
    printf 'slurm-status-command: sacct\n' >>"$site/profile.yaml"
    timeout 120 .venv/bin/python .ci/one-node/look_often.py --profile profiles/slurm --workflow-profile "$site" \
        --force results/environments/handle.json 2>&1
}
accepted() { # accepted [RESOURCE]
    as_site "$@"
    sacct -X -n --parsable2 -o jobid,account,partition,state | tail -1 | tee /dev/stderr | grep -q '|lab|cpu|COMPLETED'
}
refused() { # with one line of sbatch's, and nothing runs
    local said
    if said=$(as_site); then
        printf 'error: not refused:\n%s\n' "$said" >&2
        exit 1
    fi
    grep 'sbatch: error: .*Invalid account' <<<"$said" || { printf 'error: no reason in:\n%s\n' "$said" >&2; exit 1; }
}

printf '%s\n' '--- the account from the environment'
SBATCH_ACCOUNT=lab accepted
printf '%s\n' '--- the account from the overlay'
accepted slurm_account=lab
printf '%s\n' '--- an account that is not the user'"'"'s'
SBATCH_ACCOUNT=nosuch refused
printf '%s\n' '--- a user without an account'
sacctmgr -i -Q delete user "$(id -un)"
refused
