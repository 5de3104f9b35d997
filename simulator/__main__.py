"""``python -m simulator`` is ``servesim``."""

from simulator.cli import main

if __name__ == "__main__":
    main(prog_name="servesim")
