"""What scripts of launch files tell the programs they start."""

from __future__ import annotations

import os
import subprocess


def run_script(folder, name, *arguments):
    """Run a script with programs in the way that write down what they are told."""
    for program in ("vllm", "vllm-router", "python3", "trtllm-serve"):
        fake = folder / "bin" / program
        fake.parent.mkdir(exist_ok=True)
        fake.write_text('#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$@" "on $CUDA_VISIBLE_DEVICES"\n')
        fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        ["bash", folder / name, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()
