"""Where cells run changes no row: shards, and a Ray cluster that loses a node."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
from killing import ENVIRONMENT, contents, shorter, small_study
from own_data import label_words, write_topics

from ctsft.errors import CellFailed, UserError
from ctsft.memory import OutOfMemory
from ctsft.study import competence, executors
from ctsft.study.executors import job_of, settle
from ctsft.study.grid import cells
from ctsft.study.opening import keep_data
from ctsft.study.probes import NamedTests
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench


def test_what_fails_in_one_process_is_not_tried_by_the_others_of_the_run(tmp_path, monkeypatch):
    """Neither a cell nor theta1; a run that begins later tries both again, and so does one with more memory."""
    config = replace(shorter(tmp_path), arms=("full", "norm_only"))
    one, other = (job_of(bench, NamedTests(bench)) for bench in (Workbench(config), Workbench(config)))
    tried = []

    def failing(error):
        def make(bench, *what):
            tried.append(bench)
            raise error

        return make

    (first, second), too_little = list(one.keys), OutOfMemory("no memory")
    with monkeypatch.context() as patch:
        patch.setattr(competence, "_make", failing(CellFailed("the loss became nan")))
        assert settle(one, first).text == settle(other, second).text == "the loss became nan"
    assert tried == [one.bench]
    later = job_of(Workbench(config), NamedTests(one.bench))
    later.bench.begun = "9"
    assert settle(later, first).status == "done"
    for error, tries in ((CellFailed("not finite"), [later.bench]), (too_little, [later.bench, other.bench])):
        tried.clear()
        for note in (config.folder / "failed").glob("*.json"):
            note.unlink()
        monkeypatch.setattr("ctsft.study.executors.run_cell", failing(error))
        for job in (later, other):
            job.bench.begun = "0"
            assert settle(job, second).text == str(error)
        assert tried == tries


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    assert run_study(small_study(folder)) == 0
    return contents(folder)


def test_the_settings_of_a_users_own_task_can_be_sent_to_another_machine(tmp_path):
    """Ray pickles what it sends. The task itself holds its open tables; a worker reads it again."""
    topics = dict(task="topics", source="d00", targets=("d50",), label_words=label_words())
    own = replace(small_study(tmp_path), **topics, data_dir=write_topics(tmp_path))
    labels = own.effective_task.labels
    sent = pickle.loads(pickle.dumps(own))
    assert sent == own
    assert sent.effective_task.labels == labels


def test_shards_are_all_cells_and_none_twice(tmp_path):
    config = small_study(tmp_path)
    every = cells(config)
    for k in (1, 3, 10, 13):
        parts = [replace(config, shard=f"{i}/{k}").part(every) for i in range(1, k + 1)]
        assert [cell for part in parts for cell in part] == every
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_shards_together_give_the_rows_of_one_run(serial, tmp_path):
    # The later one first: rows stand in the order of the grid all the same.
    for shard in ("2/2", "1/2"):
        assert run_study(replace(small_study(tmp_path), shard=shard)) == 0
        assert len(read_rows(tmp_path / "demo" / "01_nusax_transfer.csv")) == (5 if shard == "2/2" else 10)
    assert contents(tmp_path) == serial


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": "0/2"}, r"--shard is '0/2'; give i/k"),
        ({"shard": "3/2"}, "3/2"),
        ({"shard": "2"}, "i/k"),
        ({"ray_address": "auto"}, "needs --executor ray"),
        ({"executor": "ray", "cell_cpus": -1}, "must not be negative"),
    ],
)
def test_bad_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        replace(small_study(tmp_path), **changes)


class Done:
    """A finished task."""

    def __init__(self, value):
        self.value = value


class AtOnce:
    """Ray's interface, without a cluster: a task runs when it is submitted; what it asks for is kept."""

    exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=ArithmeticError)

    def __init__(self):
        self.requests, self.order = [], []

    def remote(self, **request):
        self.requests.append(request)

        def of(function):
            def submit(*arguments):
                self.order.append(function.__name__)
                return Done(function(*(getattr(one, "value", one) for one in arguments)))

            return SimpleNamespace(remote=submit)

        return of

    def wait(self, tasks, num_returns):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        return task.value


def test_the_tasks_of_a_study_are_theta1_then_scores_then_cells(tmp_path):
    """What would go to a cluster, run here: the rows are those of one process, and each task asks for its share."""
    config = replace(shorter(tmp_path / "one"), arms=("circuit:0,1", "norm_only"))
    assert run_study(config) == 0
    config = replace(config, output=tmp_path / "two", executor="ray", cell_cpus=2, cell_memory_gb=0.5)
    bench = Workbench(config)
    job, ray = job_of(bench, NamedTests(bench)), AtOnce()
    keep_data(bench, {f"demo/{name}": bench.split(name, "test") for name in ("d00", "d30")})
    assert executors._submit(ray, job, executors._for_other_machines(bench.config), job.left()) == {}
    assert ray.order[:3] == ["_theta1_there", "_scores_there", "_settle_there"]
    assert ray.order.count("_theta1_there") == 1
    assert ray.order.count("_scores_there") == 2
    assert ray.order.count("_settle_there") == 3
    assert {request["num_cpus"] for request in ray.requests} == {2}
    assert {request["memory"] for request in ray.requests} == {2**29}
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def node_settings() -> dict[str, int]:
    """Little memory, and ports chosen here: a node that lets its agents choose ends itself when they take 15 seconds,
    as they do on a busy machine."""
    agents = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in agents]
        ports = {name: server.getsockname()[1] for name, server in zip(agents, free, strict=True)}
    return ports | {"object_store_memory": 80 * 2**20}


def test_a_ray_cluster_that_loses_a_node_gives_the_rows_of_one_process(serial, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "120000")
    cluster, killed = Cluster(), []
    try:
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False, **node_settings())
            nodes = [cluster.add_node(num_cpus=1, **node_settings()) for _ in range(2)]
        except Exception as error:  # Ray raises plain exceptions here
            if "timed out" not in str(error):
                raise
            pytest.skip(f"this machine is too busy to start Ray's processes within Ray's own 30 seconds: {error}")
        path, done = tmp_path / "demo" / "01_nusax_transfer.csv", threading.Event()

        def kill() -> None:
            while len(read_rows(path)) < 2 and not done.is_set():
                time.sleep(0.05)
            if not done.is_set():
                cluster.remove_node(nodes[0], allow_graceful=False)
                killed.append(len(read_rows(path)))

        killer = threading.Thread(target=kill)
        killer.start()
        assert run_study(replace(small_study(tmp_path), executor="ray", ray_address=cluster.address)) == 0
        done.set()
        killer.join()
    finally:
        cluster.shutdown()
    assert 2 <= killed[0] < 10
    assert contents(tmp_path) == serial


def test_a_ray_cluster_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install -e '.[ray]'")
    with pytest.raises(UserError, match=r"no Ray cluster answers at auto.*ray start --head"):
        run_study(replace(small_study(tmp_path), executor="ray", ray_address="auto"))
