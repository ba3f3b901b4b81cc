"""`sbatch`, `srun`, `sacct` and `scancel` for tests of submitit: jobs are processes of this machine.

Written to a folder that stands first in PATH by `install`; run under those names, it plays the command. A file
`kill-TASK` beside it has the array's task of that number killed once it has written a chunk.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def install(folder: Path) -> None:
    """Write the four commands."""
    folder.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel"):
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text(encoding='utf-8')}")
        path.chmod(0o755)


def sbatch(here: Path, script: Path) -> None:
    """Start every task of the array, and say the job's id as SLURM does."""
    job = str(1000 + len(list(here.glob("job-*"))))
    text = script.read_text()
    (here / f"job-{job}").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    for task in [None] if array is None else range(int(array[1]) + 1):
        name = job if task is None else f"{job}_{task}"
        own = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}
        own |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here", "FAKE_NAME": name}
        own |= {} if task is None else {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task)}
        with open(os.devnull, "w") as nowhere:
            process = subprocess.Popen(
                ["bash", str(script)], env={**os.environ, **own}, stdout=nowhere, stderr=nowhere, start_new_session=True
            )
        (here / f"pid-{name}").write_text(str(process.pid))
    print(f"Submitted batch job {job}")


def srun(here: Path, arguments: list[str]) -> None:
    """Become the command that is to be run, its output in the file that is named."""
    name, command, output = os.environ["FAKE_NAME"], list(arguments), {}
    while command[0].startswith("--"):
        option = command.pop(0)
        if option in ("--output", "--error"):
            output[option] = command.pop(0)
    job, _, task = name.partition("_")
    for option, number in (("--output", 1), ("--error", 2)):
        path = output[option].replace("%j", name).replace("%A", job).replace("%a", task).replace("%t", "0")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    mark = here / f"kill-{task}"
    if mark.exists() and not os.fork():  # a child watches, and strikes once
        rows, parent = Path(mark.read_text()), os.getppid()
        mark.unlink()
        while not list(rows.glob("*")):
            time.sleep(0.005)
        os.kill(parent, signal.SIGKILL)
        os._exit(0)
    os.execvp(command[0], command)


def sacct(here: Path) -> None:
    """The states of all jobs."""
    print("JobID|State|NodeList")
    for file in sorted(here.glob("pid-*")):
        stat = Path(f"/proc/{file.read_text()}/stat")
        running = stat.exists() and stat.read_text().split()[2] != "Z"
        print(f"{file.name.removeprefix('pid-')}|{'RUNNING' if running else 'COMPLETED'}|here")


if __name__ == "__main__":
    home, told = Path(sys.argv[0]).resolve().parent, Path(sys.argv[0]).name
    if told == "sbatch":
        sbatch(home, Path(sys.argv[1]))
    elif told == "srun":
        srun(home, sys.argv[1:])
    elif told == "sacct":
        sacct(home)
    else:
        (home / f"cancelled-{sys.argv[1]}").touch()
