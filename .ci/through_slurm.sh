#!/usr/bin/env bash
# The workflow at its smallest size through SLURM, for real: .ci/slurm.sh .ci/through_slurm.sh (in a checkout with .venv
# and without results). A GPU job asks for the GPU's partition and its kind of GPU, a timed one for the whole node; then
# one shard is cancelled in the middle, the next run resumes, and after that there is nothing to do.
set -euo pipefail
export MUJOCO_GL=${MUJOCO_GL:-osmesa} PYOPENGL_PLATFORM=${PYOPENGL_PLATFORM:-osmesa}
run() { .venv/bin/python .ci/one-node/look_often.py --profile profiles/slurm --workflow-profile .ci/one-node "$@"; }
expect() { grep -q "$2" <<<"$1" || { printf 'error: expected %s in:\n%s\n' "$2" "$1" >&2; exit 1; }; }
of_rule() { scontrol show job --oneliner | grep "Comment=rule_$1" || true; }

printf '%s\n' '--- a job that asks for a GPU of one kind'
run --config 'policies={pi0_nano: {device: cuda}}' -- results/environments/handle.json
expect "$(of_rule locate_model_env)" 'JobState=COMPLETED'
expect "$(of_rule locate_model_env)" 'Partition=gpu'
expect "$(of_rule locate_model_env)" 'gres.gpu:l40s\(=\|:\)1'

printf '%s\n' '--- a shard cancelled in the middle'
run reports/final.html &
snakemake=$!
cancelled=
while kill -0 $snakemake 2>/dev/null; do
    cancelled=$(squeue -h -t R -o '%i %k' | awk '/rule_roll_out_shard/ {print $1; exit}')
    if [ -n "$cancelled" ]; then
        sleep 10 # the server and the simulator are up
        scancel "$cancelled"
        break
    fi
    sleep 1
done
[ -n "$cancelled" ] || { echo 'error: no shard was seen running' >&2; exit 1; }
if wait $snakemake; then
    echo 'error: snakemake ended well although a shard was cancelled' >&2
    exit 1
fi
expect "$(scontrol show job --oneliner "$cancelled")" 'JobState=CANCELLED'
if [ -e reports/final.html ] && ! grep -q 'name="flashtrail" content="early"' reports/final.html; then
    echo 'error: a report was written although a shard was cancelled' >&2
    exit 1
fi

printf '%s\n' '--- resumed'
finished=$(find results -name '*.json' -path '*artifacts*' | wc -l)
[ "$finished" -gt 0 ] || { echo 'error: the cancelled run kept nothing' >&2; exit 1; }
log=$(mktemp)
run reports/final.html 2>&1 | tee "$log"
if grep -q '^rule convert_base' "$log"; then
    echo 'error: what was finished ran again' >&2
    exit 1
fi
rm -f "$log"
[ -s reports/final.html ]
expect "$(of_rule profile_routes)" 'Partition=cpu'
expect "$(of_rule profile_routes)" 'OverSubscribe=NO'
if of_rule check_libero_env | grep -q 'Partition=gpu'; then
    echo 'error: a job without a GPU was queued for the GPU partition' >&2
    exit 1
fi

printf '%s\n' '--- nothing to do'
expect "$(run -n reports/final.html 2>&1)" 'Nothing to be done'
printf 'SLURM: %s jobs\n' "$(scontrol show job --oneliner | grep -c JobId=)"
