"""A SLURM of two nodes, started and stopped by the tests: munged, slurmctld and two slurmd.

It needs root, because slurmd changes to the user of each job, and Debian's packages ``PACKAGES``.
Everything of it (configuration, key, sockets, state, logs) lies in one folder, the ports are its
own, and no daemon of the machine is asked or disturbed. systemd is not needed.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from waiting import wait_until

PACKAGES = "slurm-wlm munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
SYSTEM_FOLDERS = "/usr/sbin:/sbin"
# Short forms of 127.0.0.1 and 127.0.0.2, so they resolve everywhere: Lightning takes the name of a
# job's first node for the address to meet at. Two nodes of one machine must not be `localhost`.
# Jobs get the first node alone, unless they ask for the partition of both.
NODES = ("127.1", "127.2")
BOTH_NODES = "both"
# Seconds until the credential of a job's previous start has expired and a requeued job starts
# again; 120 where nothing is said. It must be longer than the start of a task ever takes.
CRED_EXPIRE_S = 15
# Most seconds from SIGTERM to SIGKILL.
KILL_WAIT_S = 60
GPUS = 4
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})
START_S = 300
STOP_S = 120
COMMAND_S = 300
# Seconds between two questions to the controller, which are processes of their own.
POLL_S = 0.3

# Tasks of a job share the machine's cores, so the node promises more than it has, and GPUs that a
# job can ask for though there are none. The scheduler looks at the queue every second.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={cred_expire}
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait={kill_wait}
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PartitionName=one Nodes={first} Default=YES MaxTime=INFINITE State=UP
PartitionName={both} Nodes=ALL MaxTime=INFINITE State=UP
"""
NODE_LINE = (
    "NodeName={name} NodeAddr={name} Port={port} CPUs={cpus}"
    " RealMemory={memory_mb} Gres=gpu:{gpus}\n"
)


def why_unavailable() -> str | None:
    """Says what this machine lacks, None where a cluster can be started."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "slurmd needs root"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        folder: Everything of it lies here.
        environment: For its commands and for whatever a job starts.
    """

    folder: Path
    environment: dict[str, str]

    def command(self, *words: object) -> str:
        """Runs one of SLURM's commands; returns what it prints."""
        done = subprocess.run(
            [*map(str, words)],
            check=False,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}{self.logs()}"
        return done.stdout.strip()

    def submit(self, *words: object, cwd: Path) -> int:
        """Submits a batch file with options; returns the job's id."""
        return int(self.command("sbatch", "--parsable", f"--chdir={cwd}", *words).split(";")[0])

    def describe(self, job: int | str) -> dict[str, str]:
        """What ``scontrol`` knows about a job (``7``, or ``7_1`` of an array): ``JobState``, ..."""
        text = self.command("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait_for(self, job: int | str, state: str, seconds: float = 300) -> dict[str, str]:
        """Returns a job's description once it is in ``state``; fails where it ends in another."""
        last: dict[str, str] = {}

        def reached() -> bool:
            last.update(self.describe(job))
            ended = last["JobState"] in ENDED - {state}
            assert not ended, f"{job} is not {state}: {last}{self.logs()}"
            return last["JobState"] == state

        wait_until(reached, lambda: f"{job} is not {state}: {last}{self.logs()}", seconds, POLL_S)
        return last

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        lines = []
        for file in sorted(self.folder.glob("*.log")):
            tail = file.read_text(errors="replace").splitlines()[-20:]
            lines.append("\n".join([f"--- {file.name}", *tail]))
        return "\n".join(["", *lines])


@contextlib.contextmanager
def running_cluster(folder: Path, *, cpus: int = 8) -> Iterator[Cluster]:
    """Starts a cluster in an empty folder and stops it, whatever happens.

    Args:
        folder: A short path: sockets may have 107 bytes.
        cpus: What the node promises, however many cores there are.
    """
    _configure(folder, cpus)
    environment = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    environment["PATH"] = f"{environment.get('PATH', '')}:{SYSTEM_FOLDERS}"
    environment["SLURM_CONF"] = str(folder / "slurm.conf")
    cluster = Cluster(folder, environment)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for words in (
            ["munged", "--foreground", "--force", *_munge_files(folder)],
            ["slurmctld", "-D"],
            *(["slurmd", "-D", "-N", name] for name in NODES),
        ):
            daemons.append(_start(words, cluster))
            if words[0] == "munged":
                wait_until((folder / "munge.socket").exists, cluster.logs, START_S)
        wait_until(lambda: _is_idle(cluster), cluster.logs, START_S)
        yield cluster
    finally:
        _stop(cluster, daemons)


def _configure(folder: Path, cpus: int) -> None:
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // len(NODES)
    text = CONFIGURATION.format(
        folder=folder,
        host=socket.gethostname().split(".")[0],
        controller_port=free_port(),
        cred_expire=CRED_EXPIRE_S,
        kill_wait=KILL_WAIT_S,
        first=NODES[0],
        both=BOTH_NODES,
    )
    for name in NODES:
        (folder / f"spool-{name}").mkdir()
        text += NODE_LINE.format(
            name=name, port=free_port(), cpus=cpus, memory_mb=memory_mb, gpus=GPUS
        )
    (folder / "slurm.conf").write_text(text)
    for number in range(GPUS):  # of a GPU, SLURM wants to see a file
        (folder / f"gpu{number}").touch()
    gres = f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n"
    (folder / "gres.conf").write_text(gres)


def _munge_files(folder: Path) -> list[str]:
    return [
        f"--key-file={folder}/munge.key",
        f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munge.pid",
        f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/munge.seed",
    ]


def _start(words: list[str], cluster: Cluster) -> "subprocess.Popen[bytes]":
    with (cluster.folder / f"{words[0]}.out.log").open("ab") as log:
        program = shutil.which(words[0], path=cluster.environment["PATH"])
        assert program is not None
        return subprocess.Popen(
            [program, *words[1:]],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _is_idle(cluster: Cluster) -> bool:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        check=False,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    return set(done.stdout.split()) == {"idle"}


def _stop(cluster: Cluster, daemons: "list[subprocess.Popen[bytes]]") -> None:
    """Ends jobs, then the daemons in reverse order, then whatever still belongs to the cluster."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        cluster.command("scancel", "--user=root")
        cluster.command("scancel", "--user=root", "--full", "--signal=KILL")
        wait_until(lambda: cluster.command("squeue", "--noheader") == "", "jobs run", STOP_S)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for pid in _processes_of(cluster):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes_of(cluster: Cluster) -> list[int]:
    """Processes that were started with this cluster's configuration."""
    mark = f"SLURM_CONF={cluster.environment['SLURM_CONF']}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
