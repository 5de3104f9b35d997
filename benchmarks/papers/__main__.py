"""``python -m benchmarks.papers NAME``: run a paper's experiment and print its figures beside ours."""

from __future__ import annotations

import argparse
from importlib import import_module

#: Papers, each a module with ``main(seeds, jobs)``, and the runs of every point unless told otherwise.
PAPERS = {"distserve": 10, "splitwise": 1, "sarathi": 1, "cloudmatrix": 1, "epd_serve": 3, "epd_singh": 3}
#: What only some of them are told besides.
MORE = ("profiles", "trace", "forests")


def main() -> None:
    """Run one paper."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.papers", description=__doc__)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--seeds", type=int, help=f"runs of every point (default: {PAPERS})")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--profiles", help="sarathi: a folder of Vidur's profiles of Llama-2-7B on A100")
    parser.add_argument("--trace", help="sarathi: Azure's conversation trace of 2023, as CSV")
    parser.add_argument("--forests", type=int, help="sarathi: train Vidur's forests so often, too (extra bench)")
    options = parser.parse_args()
    more = {name: getattr(options, name) for name in MORE if getattr(options, name) is not None}
    module = import_module(f"benchmarks.papers.{options.paper}")
    module.main(options.seeds or PAPERS[options.paper], options.jobs, **more)


if __name__ == "__main__":
    main()
