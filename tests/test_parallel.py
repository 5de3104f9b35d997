"""Many runs at once: the same bytes whatever the number of processes, and nothing lost when they are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import CANDIDATES, SCENARIO, draw_nothing, error_sentence, servesim, tree

import simulator.export
import simulator.journal
import simulator.parallel
import simulator.side_by_side
from hardware.errors import ScenarioError
from simulator import load_scenario
from simulator.interrupts import OneInterrupt
from simulator.journal import Journal, Point, point_key
from simulator.parallel import run_points

COMPARE = ("compare", "c.toml", "--seeds", "2", "--out", "out")
SWEEP = ("sweep", "s.toml", "--rate", "10:30:10", "--seeds", "2", "--out", "out")

#: A program that replaces what makes a run, in itself and in every process it starts, and then is servesim.
PROGRAM = """\
import os, signal, sys, threading
import simulator.journal, simulator.parallel
simulator.journal.program_sha256 = lambda: "as it is now"
run = simulator.parallel.run_scenario
made = []
def scripted(scenario):
    made.append(scenario)
    {script}
    return run(scenario)
simulator.parallel.run_scenario = scripted
if __name__ == "__main__":
    from simulator.cli import main
    main()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with two scenarios; pictures drawn in this process are empty, for they are slow."""
    draw_nothing(monkeypatch, "plot_candidates", "plot_sweep")
    # Somebody may edit a module between a kill and the resumption.
    monkeypatch.setattr(simulator.journal, "program_sha256", lambda: "as it is now")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    (tmp_path / "c.toml").write_text(SCENARIO + CANDIDATES)
    return tmp_path


def program(script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run servesim with a line of script before each run, in a process group of its own.

    It returns when nobody holds its output open any more: when every process it started is gone.
    """
    Path("program.py").write_text(PROGRAM.format(script=script))
    return subprocess.run(
        [sys.executable, "program.py", *arguments],
        env={**os.environ, "MPLBACKEND": "Agg", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )


def contents(place: str) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the seed of every run made from now on."""
    made: list[int] = []
    run = simulator.parallel.run_scenario

    def counted(scenario):
        made.append(scenario.seed)
        return run(scenario)

    monkeypatch.setattr(simulator.parallel, "run_scenario", counted)
    return made


def points(*seeds: int) -> list[Point]:
    scenario = load_scenario("s.toml")
    return [Point(scenario.model_copy(update={"seed": seed}), f"seed {seed}") for seed in seeds]


# --- the same bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [COMPARE, SWEEP], ids=["compare", "sweep"])
def test_the_number_of_processes_changes_no_byte(command: tuple[str, ...]) -> None:
    found = []
    for jobs, hash_seed in (("1", "1"), ("2", "2")):
        done = subprocess.run(
            [sys.executable, "-m", "simulator", *command, "--jobs", jobs],
            env={**os.environ, "MPLBACKEND": "Agg", "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        found.append((done.stdout, contents("out")))
    assert found[0] == found[1]
    assert len(found[0][1]) == (20 if command is COMPARE else 4)


def test_summaries_come_in_the_order_of_their_points(tmp_path: Path) -> None:
    forward = run_points(points(1, 2, 3), Journal(tmp_path / "a"))
    backward = run_points(points(3, 2, 1), Journal(tmp_path / "b"))
    assert forward == backward[::-1]
    assert forward[0] != forward[1]


# --- resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [COMPARE, SWEEP], ids=["compare", "sweep"])
def test_a_killed_command_goes_on_where_it_stopped(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert servesim(*command, "--jobs", "1").exit_code == 0
    whole = contents("out")
    fresh = (*command[:-1], "again", "--jobs", "1")
    killed = program("len(made) > 3 and os.kill(os.getpid(), signal.SIGKILL)", *fresh)
    assert killed.returncode == -signal.SIGKILL
    assert not Path("again").exists()
    assert len(list(Path(".servesim-again.partial/points").glob("*.json"))) == 3
    made = count_runs(monkeypatch)
    assert servesim(*fresh).exit_code == 0
    assert len(made) == (1 if command is COMPARE else 3)
    resumed = contents("again")
    # The pictures of candidates were drawn before the kill, in a process that draws.
    assert {name: data for name, data in resumed.items() if not name.endswith(".png")} == {
        name: data for name, data in whole.items() if not name.endswith(".png")
    }
    assert [name for name in tree(Path()) if "partial" in name] == []


def test_ctrl_c_keeps_what_is_finished_and_half_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = simulator.parallel.run_scenario
    made = []

    def interrupted(scenario):
        made.append(scenario)
        if len(made) == 3:
            raise KeyboardInterrupt
        return run(scenario)

    monkeypatch.setattr(simulator.parallel, "run_scenario", interrupted)
    result = servesim(*SWEEP, "--jobs", "1")
    assert result.exit_code == 1
    assert "the same command goes on with the runs that are finished" in result.stderr
    assert not Path("out").exists()
    assert servesim(*SWEEP, "--jobs", "1").exit_code == 0
    assert len(made) == 7


def test_ctrl_c_before_anything_is_finished_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_scenario):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulator.parallel, "run_scenario", interrupted)
    before = tree(Path())
    result = servesim(*COMPARE, "--jobs", "1")
    assert (result.exit_code, tree(Path())) == (1, before)
    assert "the same command" not in result.stderr


def test_a_folder_that_cannot_be_replaced_at_the_end_keeps_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(simulator.side_by_side, "plot_sweep", fill_up)
        result = servesim(*SWEEP, "--jobs", "1")
    assert "No space left" in error_sentence(result.exit_code, result.stdout, result.stderr)
    made = count_runs(monkeypatch)
    assert servesim(*SWEEP, "--jobs", "1").exit_code == 0
    assert made == []


def test_equal_points_are_run_once_and_known_ones_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_runs(monkeypatch)
    journal, told = Journal(tmp_path / "points"), []

    def tell(*, planned: int = 0, finished: int = 0) -> None:
        told.append((planned, finished))

    first = run_points(points(1, 2, 1), journal, on_progress=tell)
    assert made == [1, 2]
    assert first[0] == first[2] != first[1]
    assert [sum(column) for column in zip(*told, strict=True)] == [2, 2]
    assert run_points(points(2, 3), journal, on_progress=tell)[0] == first[1]
    assert made == [1, 2, 3]
    assert [sum(column) for column in zip(*told, strict=True)] == [4, 4]


@pytest.mark.parametrize("damage", ["", "{", "[]", "\udcff"])
def test_a_damaged_entry_is_run_again(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, (point,) = Journal(tmp_path / "points"), points(1)
    (first,) = run_points([point], journal)
    entry = journal.folder / f"{point_key(point)}.json"
    assert json.loads(entry.read_text()) == first
    entry.write_bytes(damage.encode(errors="surrogateescape"))
    made = count_runs(monkeypatch)
    assert run_points([point], journal) == [first]
    assert made == [1]


def test_everything_that_decides_a_result_is_in_its_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,3\n")

    def key(*, origin: dict | None = None, **changes: object) -> str:
        overrides = {name.replace("__", "."): value for name, value in changes.items()}
        return point_key(Point(load_scenario("s.toml", overrides), "any", origin))

    trace = {"workload__trace": "t.csv"}
    keys = [key(), key(seed=8), key(pool__right__replicas=3), key(origin={}), key(origin={"x": 1}), key(**trace)]
    (folder / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,4\n")
    os.utime(folder / "t.csv", ns=(1, 1))
    keys.append(key(**trace))
    with monkeypatch.context() as edited:
        edited.setattr(simulator.journal, "program_sha256", lambda: "edited")
        keys.append(key())
    with monkeypatch.context() as upgraded:
        upgraded.setattr(simulator.journal, "versions", lambda: {"aiconfigurator-core": "0.13"})
        keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


# --- processes ---------------------------------------------------------------------------------------


def test_a_wrong_input_in_another_process_is_one_sentence(folder: Path) -> None:
    (folder / "c.toml").write_text(SCENARIO + CANDIDATES.replace("pool.right.replicas", "pool.right.tensor_parallel"))
    (folder / "c.toml").write_text((folder / "c.toml").read_text().replace("= 4 }", "= 3 }"))
    done = program("pass", *COMPARE, "--jobs", "2")
    sentence = error_sentence(done.returncode, done.stdout, done.stderr)
    assert sentence.startswith("candidate 'big': pool.right.tensor_parallel is 3")
    assert not Path("out").exists()


def test_of_several_wrong_inputs_the_first_is_told(tmp_path: Path) -> None:
    bad = [Point(load_scenario("s.toml", {"pool.0.tensor_parallel": n}), f"point {n}") for n in (3, 5)]
    with pytest.raises(ScenarioError, match="point 3: "):
        run_points(bad, Journal(tmp_path / "points"))


def test_progress_is_shown_on_a_terminal() -> None:
    # rich takes a stream for a terminal if FORCE_COLOR says so; the other tests see that a pipe gets nothing.
    done = program("pass", *SWEEP, "--jobs", "1", FORCE_COLOR="1", TERM="xterm")
    assert done.returncode == 0
    for part in ("runs", "6/6"):
        assert part in done.stderr


def test_a_killed_process_is_said_and_not_waited_for() -> None:
    done = program("os.kill(os.getpid(), signal.SIGKILL)", *SWEEP, "--jobs", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("servesim: error: a process was killed before its run ended")
    assert done.stderr.count("\n") == 1


def test_processes_do_not_outlive_the_one_that_started_them() -> None:
    # Each would wait for ever: this returns only once they are gone.
    done = program("os.kill(os.getppid(), signal.SIGKILL) or threading.Event().wait()", *SWEEP, "--jobs", "2")
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("times", [1, 100])
def test_ctrl_c_ends_every_process_without_a_traceback(times: int) -> None:
    before = tree(Path())
    press = f"[os.killpg(os.getpgrp(), signal.SIGINT) for _ in range({times})] and threading.Event().wait()"
    done = program(press, *SWEEP, "--jobs", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert "Aborted" in done.stderr
    assert [name for name in tree(Path()) if name != "program.py"] == before


def interrupted(*, starting: int = 0, waiting: int = 0, ending: int = 0) -> list[str]:
    """Press Ctrl-C that many times in each phase, and return the phases that came to their end."""
    ended: list[str] = []

    def phase(name: str, times: int) -> None:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        ended.append(name)

    def work() -> None:
        with OneInterrupt() as interrupt:
            phase("start", starting)
            try:
                with interrupt.listening():
                    phase("wait", waiting)
            finally:
                phase("end", ending)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is before
    return ended


def test_ctrl_c_while_processes_start_or_end_is_not_forgotten() -> None:
    assert interrupted(starting=1) == ["start", "end"]
    assert interrupted(ending=1) == ["start", "wait", "end"]


def test_a_second_ctrl_c_does_not_disturb_the_answer_to_the_first() -> None:
    assert interrupted(waiting=1, ending=3) == ["start", "end"]
    assert interrupted(starting=2, waiting=1, ending=1) == ["start", "end"]
