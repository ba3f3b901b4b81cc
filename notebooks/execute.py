"""Run the notebooks so that the same code gives the same bytes, or check that their outputs still hold.

python notebooks/execute.py                    run all of them, in place
python notebooks/execute.py 00*.ipynb          run some
python notebooks/execute.py --to runs/llama    leave them as they are and write the executed ones there
python notebooks/execute.py --check -n 2       run them with nbval and compare outputs and figures, two at a time

Figures go to the folder KVSTEER_FIGURES, or to figures/ in the folder of the executed notebooks, or to runs/figures/.
`kvsteer reproduce` runs the notebooks on another model with sizes and strengths that suit it. With KVSTEER_MODEL or
KVSTEER_TASK set, what a notebook says was found on the bundled model is left out here, too, and --to is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import manifest
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from kvsteer_lab.reproduction.adapting import BUNDLED, adapt
from kvsteer_lab.reproduction.chapters import Chapter

HERE = Path(__file__).resolve().parent
SANITIZE = HERE.parent / "tests" / "nbval_sanitize.cfg"

# No progress bars, no downloads, no chatter, one thread (sums in one order).
ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "OMP_NUM_THREADS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
KERNEL = {
    "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
    "language_info": {"name": "python"},
}
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def execute(path: Path, target: Path) -> None:
    """Run one notebook from the top in a fresh kernel and write it, in canonical form, to `target`."""
    began = time.perf_counter()
    asked = {name: value for name, value in other_than_bundled().items() if name in Chapter(path).parameters}
    notebook = adapt(Chapter(path), asked, asked.get("MODEL", "the bundled model"))
    # Widget state has to be stored while the notebook runs: nbclient 0.11 fails on Output widgets otherwise.
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    canonicalise(notebook, path.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    print(f"{path.name}: {time.perf_counter() - began:.0f} s")


def other_than_bundled() -> dict[str, str]:
    """The model and the task that the environment names, where they aren't those that the notebooks tell of."""
    named = {name: os.environ.get(f"KVSTEER_{name}", own) for name, own in BUNDLED.items()}
    return {name: value for name, value in named.items() if value != BUNDLED[name]}


def canonicalise(notebook: NotebookNode, name: str) -> None:
    """Drop what differs from run to run: ids, timings, widget models, addresses. Refuse what is written to stderr."""
    notebook.metadata = nbformat.from_dict(KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number:02d}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                if output.name == "stderr":
                    sys.exit(f"{name}: cell {number} writes to stderr: {output.text[:300]!r}")
                output.text = ADDRESS.sub("0xADDR", output.text)
            for kind in list(output.get("data", {})):
                if kind == "application/vnd.jupyter.widget-view+json":
                    del output.data[kind]
                elif kind.startswith("text/"):
                    output.data[kind] = ADDRESS.sub("0xADDR", output.data[kind])


def check(paths: list[Path], workers: int) -> int:
    """Run the notebooks under nbval; each output must be the one that is stored, and each figure the committed one."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        str(SANITIZE),
        "--nbval-cell-timeout",
        "300",
    ]
    command += ["-p", "no:cacheprovider", "--durations", "5", *map(str, paths)]
    if workers > 1:
        command += ["-n", str(min(workers, len(paths))), "--dist", "loadfile"]
    with tempfile.TemporaryDirectory() as folder:
        status = subprocess.call(command, cwd=HERE.parent, env={**os.environ, "KVSTEER_FIGURES": folder})
        failures, remarks = manifest.compare(Path(folder), HERE.parent / "figures", {path.name[:3] for path in paths})
    for line in remarks:
        print(f"figures: {line}")
    for line in failures:
        print(f"figures: {line}. If it is meant, run `make figures`, look at it and commit it.")
    print(f"figures: {'not ' if failures else ''}those that are committed")
    return status or int(bool(failures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of them")
    parser.add_argument("--check", action="store_true", help="compare the outputs with nbval instead of writing them")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write the executed notebooks there")
    parser.add_argument("-n", type=int, default=1, metavar="N", help="with --check: how many run at a time")
    asked = parser.parse_args()
    paths = [p.resolve() if p.is_file() else HERE / p for p in asked.notebooks] or sorted(HERE.glob("*.ipynb"))
    missing = [str(p) for p in paths if not p.is_file()]
    if missing or not paths:
        parser.error(f"no such notebook: {', '.join(missing)}" if missing else "there are no notebooks here")
    if other_than_bundled() and not (asked.to or asked.check):
        parser.error(
            "KVSTEER_MODEL or KVSTEER_TASK is set, and the notebooks here tell of the bundled model: name a folder"
            " with --to, or unset it"
        )
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    if asked.check:
        return check(paths, asked.n)
    if asked.to:
        os.environ.setdefault("KVSTEER_FIGURES", str(asked.to.resolve() / "figures"))
    for path in paths:
        execute(path, asked.to.resolve() / path.name if asked.to else path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
