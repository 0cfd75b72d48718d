#!/usr/bin/env bash
# A one-node SLURM out of Debian's packages, for as long as one command runs (as root):
#   .ci/slurm.sh [--accounting] COMMAND [ARG ...]
# The real slurmctld, slurmd and munged on loopback, everything they write in one temporary folder; the command runs
# as the caller. Two partitions with the same node, `cpu` and `gpu`; the GPU, of type l40s, is a file (/dev/null stands
# for the device): what is tested is that jobs are asked for, queued, cancelled and counted, not that a GPU computes.
# Without --accounting sacct has nothing to say, as on many small clusters; with it slurmdbd and MariaDB run too, every
# job needs an account, and the caller has one, `lab`.
set -euo pipefail
accounting=
[ "${1-}" != --accounting ] || { accounting=yes && shift; }
[ "$(id -u)" -eq 0 ] || { echo "error: slurm.sh starts daemons: run it as root" >&2; exit 2; }
[ $# -gt 0 ] || { echo "usage: slurm.sh [--accounting] COMMAND [ARG ...]" >&2; exit 2; }
PATH=$PATH:/usr/sbin
packages=(slurmctld slurmd slurm-client munge ${accounting:+slurmdbd mariadb-server})
if ! command -v slurmctld slurmd munged srun ${accounting:+slurmdbd mariadbd} | awk "END {exit NR < ${#packages[@]}}"; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi
state=$(mktemp -d "${TMPDIR:-/tmp}/flashtrail-slurm.XXXXXX") && chmod 755 "$state"
started=()
undo() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    for file in slurm.conf slurmdbd.conf; do
        [ "$(readlink "/etc/slurm/$file" || true)" != "$state/$file" ] || rm -f "/etc/slurm/$file"
    done
    rm -rf "$state"
}
trap undo EXIT
exec 9>/run/lock/flashtrail-slurm
flock -w 1800 9 || { echo "error: another slurm.sh has been at work for 30 minutes; wait for it or end it" >&2; exit 2; }
for file in slurm.conf slurmdbd.conf; do # what a killed run left: a link into its folder, or into nowhere
    left=$(readlink "/etc/slurm/$file" || true)
    [[ $left != */flashtrail-slurm.* ]] && { [ -z "$left" ] || [ -e "$left" ]; } || rm -f "/etc/slurm/$file"
done
[ ! -e /etc/slurm/slurm.conf ] || { echo "error: this machine has a SLURM of its own (/etc/slurm/slurm.conf)" >&2; exit 2; }

install -d -o munge -m 755 "$state/munge"
[ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key && chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key; }
setpriv --reuid munge --regid munge --clear-groups munged --foreground --socket "$state/munge/socket" \
    --pid-file "$state/munge/pid" --log-file "$state/munge/log" --seed-file "$state/munge/seed" &
started+=($!)

await() { # await COMMAND ...: up to 20 s, until it succeeds
    for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    tail -n 20 "$state"/*.{log,out} >&2 || true
    echo "error: in vain: $*" >&2
    return 1
}
await test -S "$state/munge/socket"

node=$(hostname -s)
install -d "$state/spool" "$state/ctld"
accounts=AccountingStorageType=accounting_storage/none
[ -z "$accounting" ] || accounts="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass=$state/munge/socket
AccountingStorageEnforce=associations"
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
$accounts
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
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024)) Gres=gpu:l40s:1
PartitionName=cpu Nodes=$node Default=YES MaxTime=60 OverSubscribe=NO State=UP
PartitionName=gpu Nodes=$node MaxTime=60 OverSubscribe=NO State=UP
CONF
printf 'Name=gpu Type=l40s File=/dev/null\n' >"$state/gres.conf"
install -d /etc/slurm
ln -s "$state/slurm.conf" /etc/slurm/slurm.conf # SLURM_CONF does not reach what a job step starts
if [ -n "$accounting" ]; then
    install -d -o mysql -m 700 "$state/database"
    mariadb-install-db --no-defaults --user=mysql --datadir="$state/database" --auth-root-authentication-method=normal \
        --skip-test-db >"$state/database.out" 2>&1
    mariadbd --no-defaults --user=mysql --datadir="$state/database" --socket="$state/database/socket" --skip-networking \
        --pid-file="$state/database/pid" --innodb-buffer-pool-size=64M >>"$state/database.out" 2>&1 &
    started+=($!)
    (umask 077 && cat >"$state/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounts
LogFile=$state/slurmdbd.log
PidFile=$state/slurmdbd.pid
CONF
    ln -s "$state/slurmdbd.conf" /etc/slurm/slurmdbd.conf
    await mariadb-admin --no-defaults --socket="$state/database/socket" ping
    MYSQL_UNIX_PORT=$state/database/socket slurmdbd -D >"$state/slurmdbd.out" 2>&1 &
    started+=($!)
    await sacctmgr -i add cluster one
    sacctmgr -i -Q add account lab Description=lab Organization=lab
    sacctmgr -i -Q add user "$(id -un)" Account=lab
fi
slurmctld -D -c -f "$state/slurm.conf" >"$state/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D -f "$state/slurm.conf" >"$state/slurmd.out" 2>&1 &
started+=($!)
node_is_idle() { [ "$(sinfo -h -p cpu -o %T)" = idle ]; }
await node_is_idle
"$@"
