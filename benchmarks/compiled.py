"""The replay against Dynamo with the engine compiled by mypyc: built, installed and run in a folder of its own.

Run: ``python -m benchmarks.compiled [--rounds N]``. Needs a C compiler; building takes some two minutes. The build is
what ``HATCH_BUILD_HOOK_ENABLE_MYPYC=1 pip install .`` does, in a copy, since it leaves compiled modules beside the
sources, which would then be used instead of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("simulator", "workloads", "hardware", "perfdb", "scenarios", "benchmarks", "pyproject.toml", "README.md")


def main() -> None:
    """Build, install, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = str(parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as folder:
        source, home = Path(folder) / "source", Path(folder) / "venv"
        copy_sources(source)
        venv.create(home, with_pip=True)
        python = str(home / "bin" / "python")
        environment = os.environ | {"HATCH_BUILD_HOOK_ENABLE_MYPYC": "1"}
        install = [python, "-m", "pip", "install", "-q", f"{source}[bench]"]
        subprocess.run(install, check=True, env=environment)  # noqa: S603
        # From a folder without the packages, so that the installed ones are used.
        bench = Path(folder) / "bench"
        shutil.copytree(ROOT / "benchmarks", bench / "benchmarks")
        where = [python, "-c", "import simulator.instance as i; print('runs', i.__file__.rsplit('/', 1)[1])"]
        subprocess.run(where, check=True, cwd=bench)  # noqa: S603
        done = subprocess.run(  # noqa: S603
            [python, "-m", "benchmarks.replay", "--rounds", rounds], check=False, cwd=bench
        )
    sys.exit(done.returncode)


def copy_sources(target: Path) -> None:
    """Copy what a wheel is made of."""
    target.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in (*SOURCES, "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target / name)


if __name__ == "__main__":
    main()
