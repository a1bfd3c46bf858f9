"""status.json and metrics.prom: their contents, and that a reader never sees half a file."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import pytest
from support.agent_fakes import GIB, UUIDS, report

from flexi_host.agent import report as reports
from flexi_host.agent.drain import Drain
from flexi_host.agent.state import Board, InstanceView, ModelView, Phase

VIEWS = (
    InstanceView(
        "a",
        "http://127.0.0.1:11434",
        Phase.READY,
        None,
        UUIDS,
        (
            ModelView("llama3:8b", Phase.READY, None, None, None, 5 * GIB, 5 * GIB, 8192, "2318-01-01T00:00:00Z", 9.0),
            ModelView('odd"\\name\n', Phase.DOWNLOADING, None, 3, 10),
        ),
        since=7.0,
    ),
    InstanceView("b", "http://127.0.0.1:11435", Phase.FAULT, "the GPU is lost", (), ()),
)


DRAINS = {"a": Drain(None, True), "b": Drain("new fans", False)}


def test_the_status_says_everything_in_plain_json() -> None:
    status = json.loads(reports.as_json(reports.status("server-a", 1e9, report(*UUIDS), VIEWS, DRAINS)))
    assert (status["schema"], status["host"], status["time"]) == (1, "server-a", 1e9)
    assert status["driver"] == {"kernel_version": "535.309.01", "library_version": "535.309.01", "error": None}
    assert [gpu["uuid"] for gpu in status["gpus"]] == list(UUIDS)
    first, second = status["instances"]
    assert (first["group"], first["phase"], first["reason"], first["since"], first["drain"]) == (
        "a",
        "ready",
        None,
        7.0,
        {"reason": None, "told": True},
    )
    assert (second["phase"], second["reason"]) == ("fault", "the GPU is lost")
    assert second["drain"] == {"reason": "new fans", "told": False}
    assert first["models"][0] == {
        "name": "llama3:8b",
        "phase": "ready",
        "reason": None,
        "completed": None,
        "total": None,
        "size": 5 * GIB,
        "size_vram": 5 * GIB,
        "context_length": 8192,
        "expires_at": "2318-01-01T00:00:00Z",
        "since": 9.0,
    }
    assert (first["models"][1]["completed"], first["models"][1]["total"]) == (3, 10)


def test_before_the_first_look_at_the_gpus_the_status_says_so() -> None:
    status = reports.status("server-a", 1.0, None, (), {})
    assert (status["driver"], status["gpus"], status["instances"]) == (None, [], [])


def test_metrics_are_in_prometheus_text_format() -> None:
    text = reports.metrics(1.5, report(*UUIDS, memory_used=GIB), VIEWS, DRAINS)
    assert text.endswith("\n")
    sample = re.compile(r'[a-z_]+(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="(\\.|[^"\\])*")*\})? -?\d+(\.\d+)?')
    announced = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            announced = line.split()[2]
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {announced} gauge"
        else:
            assert sample.fullmatch(line), line
            assert re.split("[ {]", line)[0] == announced, "samples stand under their own HELP and TYPE"
    for line in (
        'flexi_instance_up{group="a"} 1',
        'flexi_instance_up{group="b"} 0',
        'flexi_instance_drained{group="b"} 1',
        'flexi_model_ready{group="a",model="llama3:8b"} 1',
        'flexi_model_ready{group="a",model="odd\\"\\\\name\\n"} 0',
        f'flexi_model_vram_bytes{{group="a",model="llama3:8b"}} {5 * GIB}',
        f'flexi_gpu_memory_used_bytes{{gpu="0",uuid="{UUIDS[0]}",name="NVIDIA RTX A5000"}} {GIB}',
        f'flexi_gpu_utilization_ratio{{gpu="1",uuid="{UUIDS[1]}",name="NVIDIA RTX A5000"}} 0.07',
        'flexi_driver_info{kernel="535.309.01",library="535.309.01"} 1',
        "flexi_driver_up 1",
    ):
        assert f"\n{line}\n" in text
    assert "ecc" not in text, "a card that does not count its errors has no metric for them"
    assert "flexi_driver_up 0\n" in reports.metrics(1.0, report(error="no"), (), {})
    assert "flexi_driver_up 0\n" in reports.metrics(1.0, None, (), {})


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    texts = ["a" * 200_000, "b" * 100_000]
    reports.write(tmp_path, "status.json", texts[0])
    written = threading.Event()

    def write() -> None:
        for number in range(100):
            reports.write(tmp_path, "status.json", texts[number % 2])
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not written.is_set():
        seen.add((tmp_path / "status.json").read_text())
    thread.join()
    assert seen <= set(texts)
    assert os.listdir(tmp_path) == ["status.json"], "no temporary file is left"
    assert (tmp_path / "status.json").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    reports.write(tmp_path, "status.json", "old")
    with pytest.raises(UnicodeEncodeError):
        reports.write(tmp_path, "status.json", "\udc80")
    assert (tmp_path / "status.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["status.json"]


def test_the_board_dates_phases_and_logs_each_change_once() -> None:
    log: list[str] = []
    times = iter([10.0, 20.0, 30.0, 40.0])
    board = Board(log.append, wall=lambda: next(times))

    def put(phase: Phase, model: ModelView, reason: str | None = None) -> ModelView:
        board.put(InstanceView("a", "", phase, reason, (), (model,)))
        view = board.view("a")
        assert view
        return view.models[0]

    assert put(Phase.READY, ModelView("m", Phase.DOWNLOADING, None, 1, 9)).since == 10.0
    assert put(Phase.READY, ModelView("m", Phase.DOWNLOADING, None, 2, 9)).since == 10.0
    assert put(Phase.READY, ModelView("m", Phase.READY)).since == 30.0
    assert put(Phase.FAULT, ModelView("m", Phase.FAULT, "GPU lost"), "GPU lost").since == 40.0
    assert log == [
        "a: ready",
        "a m: downloading",
        "a m: downloading -> ready",
        "a: ready -> fault (GPU lost)",
    ]
