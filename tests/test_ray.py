"""Runs on a real local Ray cluster: the same results as here, and nothing lost or counted twice with a dead worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import draw_nothing, error_sentence, servesim
from test_search import SCENARIO

import simulator.journal
import simulator.ray_executor
import simulator.search_folder
from hardware.errors import ScenarioError
from simulator.journal import Journal
from simulator.parallel import run_missing
from simulator.ray_executor import RayExecutor

pytestmark = pytest.mark.filterwarnings("default")
THIS = sys.modules[__name__]


def test_without_ray_or_a_cluster_it_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "s.toml").write_text(SCENARIO)
    monkeypatch.setitem(sys.modules, "ray", None)
    done = servesim("search", "s.toml", "--executor", "ray")
    assert "pip install 'servesim[ray]'" in error_sentence(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster of two workers, and stop it."""
    ray = pytest.importorskip("ray")
    tool = str(Path(sys.executable).parent / "ray")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
    start = ("start", "--head", "--num-cpus=2", "--port=0", "--include-dashboard=false", "--disable-usage-stats")
    subprocess.run([tool, *start], env=environment, check=True, capture_output=True)
    ray.cloudpickle.register_pickle_by_value(THIS)
    yield ray
    subprocess.run([tool, "stop"], env=environment, check=False, capture_output=True)


def counted(key, place, _journal):
    """Note each attempt in a file of its own; the first of one run dies with its worker."""
    attempts = Path(place) / key
    attempts.mkdir(exist_ok=True)
    number = len(list(attempts.iterdir()))
    (attempts / str(number)).touch()
    if key == "3" and not number:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"key": key}


def refusing(_key, _run, _journal):
    raise ScenarioError("pool.0: too small")


def nobody(**_):
    return None


@pytest.mark.usefixtures("cluster")
def test_a_run_whose_worker_dies_is_made_again_and_counts_once(tmp_path):
    attempts = tmp_path / "attempts"
    attempts.mkdir()
    told = []
    journal = Journal(tmp_path / "journal")
    with RayExecutor() as executor:
        runs = {str(number): str(attempts) for number in range(8)}
        found = run_missing(runs, counted, journal, executor=executor, on_progress=lambda **n: told.append(n))
        assert list(found) == list(runs)
        assert [found[key]["key"] for key in runs] == list(runs)
        assert len(list((attempts / "3").iterdir())) == 2
        assert sum(note.get("finished", 0) for note in told) == 8
        # What is known is not made again.
        run_missing(runs, counted, journal, executor=executor)
        assert sum(len(list(one.iterdir())) for one in attempts.iterdir()) == 9
    assert sorted(path.stem for path in (tmp_path / "journal").glob("*.json")) == sorted(runs)


@pytest.mark.usefixtures("cluster")
def test_a_wrong_input_is_refused_as_it_is_here(tmp_path):
    with RayExecutor() as executor, pytest.raises(ScenarioError, match="too small"):
        executor.make({"a": 1}, refusing, Journal(tmp_path), nobody)


@pytest.mark.usefixtures("cluster")
def test_a_search_gives_the_same_files_as_here_though_a_worker_dies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulator.journal, "program_sha256", lambda: "as it is now")
    draw_nothing(monkeypatch)
    monkeypatch.setattr(simulator.search_folder, "plot_front", lambda *arguments: arguments[-1].write_bytes(b""))
    (tmp_path / "s.toml").write_text(SCENARIO)
    marker, make = tmp_path / "killed", simulator.ray_executor._make

    def dying(work, key, run):
        if "trial" in work.__name__ and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return make(work, key, run)

    assert servesim("search", "s.toml", "--jobs", "1", "--quiet", "--out", "here").exit_code == 0
    monkeypatch.setattr(simulator.ray_executor, "_make", dying)
    done = servesim("search", "s.toml", "--executor", "ray", "--quiet", "--out", "there")
    assert done.exit_code == 0, done.output
    assert marker.exists()
    names = sorted(path.name for path in Path("here").iterdir() if path.is_file())
    assert names == sorted(path.name for path in Path("there").iterdir() if path.is_file())
    assert all(Path("here", name).read_bytes() == Path("there", name).read_bytes() for name in names)
