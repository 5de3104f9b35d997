"""The tutorial: every command of it runs, in its order, on fewer requests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from command import draw_nothing, servesim
from pricing import needs_tables

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
COMMANDS = [
    line.replace("requests=400", "requests=40")
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@needs_tables
def test_every_command_of_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_nothing(monkeypatch, "plot_candidates")
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        assert name == "servesim"
        done = servesim(*arguments)
        assert (done.exit_code, done.stderr) == (0, ""), command
    for file in ("quickstart/report.html", "quickstart-search/winner.toml", "quickstart-search-launch/verify.sh"):
        assert Path("results", file).is_file()


def test_every_page_is_in_the_site() -> None:
    listed = set(
        re.findall(r"- (\S+\.md)$", (PAGE.parents[1] / ".mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    pages = {str(path.relative_to(PAGE.parent)) for path in PAGE.parent.rglob("*.md")}
    assert listed == {page for page in pages if not page.startswith("decisions/")}
