"""``python -m benchmarks.papers NAME``: run a paper's experiment and print its figures beside ours."""

from __future__ import annotations

import argparse
from importlib import import_module

#: Papers, each a module with ``main(seeds, jobs)``, and the runs of every point unless told otherwise.
PAPERS = {"distserve": 10, "splitwise": 1}


def main() -> None:
    """Run one paper."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.papers", description=__doc__)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--seeds", type=int, help=f"runs of every point (default: {PAPERS})")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args()
    import_module(f"benchmarks.papers.{options.paper}").main(options.seeds or PAPERS[options.paper], options.jobs)


if __name__ == "__main__":
    main()
