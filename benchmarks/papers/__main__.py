"""``python -m benchmarks.papers NAME``: run a paper's experiment and print its figures beside ours."""

from __future__ import annotations

import argparse
from importlib import import_module

#: Papers, each a module with ``main(seeds, jobs)``.
PAPERS = ("distserve",)


def main() -> None:
    """Run one paper."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.papers", description=__doc__)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--seeds", type=int, default=10, help="runs of every point (default: 10)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args()
    import_module(f"benchmarks.papers.{options.paper}").main(options.seeds, options.jobs)


if __name__ == "__main__":
    main()
