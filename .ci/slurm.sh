#!/usr/bin/env bash
# A one-node SLURM out of Debian's packages, for as long as one command runs: .ci/slurm.sh COMMAND [ARG ...] (as root).
# The real slurmctld, slurmd and munged on loopback, everything they write in one temporary folder; the command runs
# as the caller. Two partitions with the same node, `cpu` and `gpu`; the GPU is a file (/dev/null stands for the
# device): what is tested is that jobs are asked for, queued, cancelled and counted, not that a GPU computes.
# No accounting (no slurmdbd): sacct has nothing to say here, as on many small clusters.
set -euo pipefail
[ "$(id -u)" -eq 0 ] || { echo "error: slurm.sh starts daemons: run it as root" >&2; exit 2; }
[ $# -gt 0 ] || { echo "usage: slurm.sh COMMAND [ARG ...]" >&2; exit 2; }
PATH=$PATH:/usr/sbin
if ! { command -v slurmctld && command -v slurmd && command -v munged && command -v srun; } >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
fi
state=$(mktemp -d) && chmod 755 "$state"
started=()
undo() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    [ "$(readlink /etc/slurm/slurm.conf || true)" != "$state/slurm.conf" ] || rm -f /etc/slurm/slurm.conf
    rm -rf "$state"
}
trap undo EXIT
[ ! -e /etc/slurm/slurm.conf ] || { echo "error: this machine has a SLURM of its own (/etc/slurm/slurm.conf)" >&2; exit 2; }

install -d -o munge -m 755 "$state/munge"
[ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key && chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key; }
setpriv --reuid munge --regid munge --clear-groups munged --foreground --socket "$state/munge/socket" \
    --pid-file "$state/munge/pid" --log-file "$state/munge/log" --seed-file "$state/munge/seed" &
started+=($!)

node=$(hostname -s)
install -d "$state/spool" "$state/ctld"
cat >"$state/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
SlurmdParameters=config_overrides
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/spool
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024)) Gres=gpu:1
PartitionName=cpu Nodes=$node Default=YES MaxTime=60 OverSubscribe=NO State=UP
PartitionName=gpu Nodes=$node MaxTime=60 OverSubscribe=NO State=UP
CONF
printf 'Name=gpu File=/dev/null\n' >"$state/gres.conf"
install -d /etc/slurm
ln -s "$state/slurm.conf" /etc/slurm/slurm.conf # SLURM_CONF does not reach what a job step starts
for _ in $(seq 50); do [ -S "$state/munge/socket" ] && break; sleep 0.1; done
slurmctld -D -c -f "$state/slurm.conf" >"$state/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D -f "$state/slurm.conf" >"$state/slurmd.out" 2>&1 &
started+=($!)
for _ in $(seq 100); do [ "$(sinfo -h -p cpu -o %T 2>/dev/null)" = idle ] && break; sleep 0.1; done
[ "$(sinfo -h -p cpu -o %T)" = idle ] || { tail -n 20 "$state"/slurm*.{log,out}; echo "error: the node did not come up" >&2; exit 1; }
"$@"
