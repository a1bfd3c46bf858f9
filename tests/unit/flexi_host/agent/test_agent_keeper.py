"""The keeper against a small Ollama: every phase, every fault, and that each heals by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.agent_fakes import SOON, UUIDS, FakeOllama, fake_ollama, report, until

from flexi_host.agent.config import InstanceConfig, ModelConfig
from flexi_host.agent.downloads import Downloads
from flexi_host.agent.gpus import GpuReport
from flexi_host.agent.keeper import Host, Keeper, Pace
from flexi_host.agent.share import ShareError
from flexi_host.agent.state import Board, InstanceView, ModelView, Phase
from flexi_host.common.backoff import Backoff
from flexi_host.common.ollama import Ollama, Timeouts

FAST = Pace(
    look_s=0.02,
    pull_again_s=0.05,
    pull_cap_s=0.2,
    load_again_s=0.05,
    load_cap_s=0.2,
    keep_cap_s=0.2,
    reload_again_s=0.05,
    reload_cap_s=0.2,
)
LLAMA = "llama3:8b"
ALL = "all"


Obtain = Callable[[str, str, Callable[[int, int], None]], bool]


def nowhere(group: str, model: str, tell: Callable[[int, int], None]) -> bool:
    """No other store of the host has the model."""
    return False


class Rig:
    """A keeper, its instance, its GPUs and its board."""

    def __init__(
        self,
        ollama: FakeOllama,
        env_file: Path,
        models: tuple[ModelConfig, ...],
        gpus: GpuReport | None,
        pace: Pace,
        group: str = "a",
        downloads: Downloads | None = None,
        obtain: Obtain = nowhere,
    ) -> None:
        self.ollama = ollama
        self.group = group
        self.report = gpus
        self.log: list[str] = []
        self.board = Board(self.log.append)
        config = instance(group, ollama.url, env_file, *models)
        client = Ollama(ollama.url, Timeouts(answer_s=0.2, store_s=0.5, load_s=5, pull_s=5))
        self.node_fault: str | None = None
        there = downloads or Downloads([config])
        host = Host(lambda: self.report, there, obtain, self.log.append, node_fault=lambda: self.node_fault)
        self.keeper = Keeper(config, client, host, self.board.put, 0.1, pace)
        self.keeper.start()

    def view(self) -> InstanceView | None:
        return self.board.view(self.group)

    def model(self, name: str = LLAMA) -> ModelView | None:
        view = self.view()
        return next((model for model in view.models if model.name == name), None) if view else None

    def until_model(self, phase: Phase, name: str = LLAMA, reason: str | None = None) -> ModelView:
        def reached() -> ModelView | None:
            model = self.model(name)
            good = model and model.phase is phase and (reason is None or reason in (model.reason or ""))
            return model if good else None

        try:
            found: ModelView = until(reached, f"{name} {phase} {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.view()}; log: {self.log}") from None
        return found


def instance(group: str, url: str, env_file: Path, *models: ModelConfig) -> InstanceConfig:
    return InstanceConfig(group, url, env_file, Path("/nowhere/models"), models)


def model(name: str = LLAMA, **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {"name": name, "source": name, "insecure": False, "context": 8192, "embedding": False}
    return ModelConfig(**{**values, **changes})


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / "a.env"
    path.write_text(f"OLLAMA_HOST=0.0.0.0:11434\nCUDA_VISIBLE_DEVICES={','.join(UUIDS)}\n")
    return path


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    """The instance; set its switches before a keeper starts on it."""
    with fake_ollama() as fake:
        yield fake


@pytest.fixture
def make(ollama: FakeOllama, env_file: Path) -> Iterator[Any]:
    rigs: list[Rig] = []

    def build(
        *models: ModelConfig,
        stored: tuple[str, ...] = (),
        gpus: GpuReport | str | None = ALL,
        pace: Pace = FAST,
        obtain: Obtain = nowhere,
    ) -> Rig:
        ollama.stored.update(dict.fromkeys(stored, "2026-01-01T00:00:00Z"))
        seen = report(*UUIDS) if isinstance(gpus, str) else gpus
        rigs.append(Rig(ollama, env_file, models or (model(),), seen, pace, obtain=obtain))
        return rigs[-1]

    yield build
    for rig in rigs:
        rig.keeper.stop()


def test_a_missing_model_is_downloaded_then_loaded_then_ready(make: Any, ollama: FakeOllama) -> None:
    ollama.pull_may_go_on.clear()
    ollama.load_may_go_on.clear()
    rig = make()
    until(lambda: (rig.model() or ModelView("", Phase.STARTING)).total == 1000, "both layers counted")
    assert (rig.model().phase, rig.model().completed) == (Phase.DOWNLOADING, 300)
    assert rig.view().phase is Phase.READY, "an instance that downloads still serves its other models"
    ollama.pull_may_go_on.set()
    rig.until_model(Phase.LOADING)
    until(lambda: ollama.loads() == [LLAMA], "the load was asked for")
    ollama.load_may_go_on.set()
    ready = rig.until_model(Phase.READY)
    assert (ready.size, ready.size_vram, ready.context_length, ready.reason) == (ollama.size, ollama.vram, 8192, None)
    assert dict(ollama.calls)["/api/generate"] == {"model": LLAMA, "keep_alive": -1}, "options would force a reload"


def test_a_mirrors_long_name_becomes_the_right_one(make: Any, ollama: FakeOllama) -> None:
    source = "10.87.0.2:5000/library/llama3:8b"
    rig = make(model(source=source, insecure=True))
    rig.until_model(Phase.READY)
    until(lambda: list(ollama.stored) == [LLAMA], "the long name is gone")
    pull = dict(ollama.calls)["/api/pull"]
    assert pull == {"model": source, "insecure": True, "stream": True}


def test_a_rename_that_was_cut_off_is_finished_without_a_second_download(make: Any, ollama: FakeOllama) -> None:
    source = "10.87.0.2:5000/library/llama3:8b"
    rig = make(model(source=source), stored=(source,))
    rig.until_model(Phase.READY)
    until(lambda: list(ollama.stored) == [LLAMA], "the long name is gone")
    assert "/api/pull" not in ollama.paths()


def test_an_error_inside_the_stream_is_a_fault_in_words_and_tried_again(make: Any, ollama: FakeOllama) -> None:
    ollama.pull_errors[:] = ["write /models: no space left on device"] * 3
    rig = make(stored=())
    rig.until_model(Phase.FAULT, reason="no space left on device")
    rig.until_model(Phase.READY)
    assert ollama.paths().count("/api/pull") >= 2


def test_a_stream_that_ends_without_success_is_a_fault(make: Any, ollama: FakeOllama) -> None:
    ollama.pull_errors[:] = ["", ""]
    rig = make()
    rig.until_model(Phase.FAULT, reason="broke off")
    rig.until_model(Phase.READY)


def test_a_failed_load_is_a_fault_in_words_and_tried_again(make: Any, ollama: FakeOllama) -> None:
    ollama.load_errors[:] = ["llama runner process has terminated: exit status 2"] * 2
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.FAULT, reason="llama runner process has terminated")
    rig.until_model(Phase.READY)


def test_an_embedding_model_is_loaded_through_embed(make: Any, ollama: FakeOllama) -> None:
    ollama.embedding.add("nomic:latest")
    rig = make(model("nomic:latest", embedding=True), stored=("nomic:latest",))
    rig.until_model(Phase.READY, "nomic:latest")
    assert ollama.paths() == ["/api/embed"]


def test_names_without_a_tag_mean_latest(make: Any, ollama: FakeOllama) -> None:
    ollama.make_resident("mistral:latest")
    rig = make(model("Mistral"), stored=("mistral:latest",))
    rig.until_model(Phase.READY, "Mistral")
    assert ollama.calls == [], "neither downloaded nor loaded once more"


def test_models_are_loaded_one_after_the_other_in_their_order(make: Any, ollama: FakeOllama) -> None:
    names = ("big:70b", LLAMA, "phi3:latest")
    rig = make(*(model(name) for name in names), stored=names)
    for name in names:
        rig.until_model(Phase.READY, name)
    assert ollama.loads() == list(names)


def test_an_unload_by_hand_heals(make: Any, ollama: FakeOllama) -> None:
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    ollama.resident.clear()
    until(lambda: len(ollama.loads()) == 2, "it is loaded again")
    rig.until_model(Phase.READY)


def test_a_short_keep_alive_is_renewed_while_the_model_goes_on_serving(make: Any, ollama: FakeOllama) -> None:
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    ollama.load_may_go_on.clear()
    ollama.make_resident(LLAMA, expires_at=SOON)
    until(lambda: len(ollama.loads()) == 2, "keep-alive was renewed")
    assert rig.model().phase is Phase.READY
    ollama.load_may_go_on.set()
    until(lambda: (rig.model().expires_at or "").startswith("23"), "it stays for ever again")


def test_two_models_that_push_each_other_out_do_so_ever_more_slowly(make: Any, ollama: FakeOllama) -> None:
    names = (LLAMA, "big:70b")
    ollama.room_for = 1
    rig = make(*(model(name) for name in names), stored=names)
    until(lambda: any("is there room for it" in line for line in rig.log), "the log says that they do not fit together")


def test_a_killed_instance_starts_and_is_ready_again(make: Any, ollama: FakeOllama) -> None:
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    ollama.kill()
    rig.until_model(Phase.STARTING, reason="not running")
    assert rig.view().phase is Phase.STARTING
    ollama.start()
    rig.until_model(Phase.READY)


def test_an_instance_that_its_gate_stops_has_the_reason(make: Any, ollama: FakeOllama) -> None:
    """nvidia-smi is well, and yet no start gets past the gate. One that runs has its device open and goes on."""
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    rig.node_fault = "the kernel module nvidia-uvm is not loaded"
    looks = rig.keeper.looks
    until(lambda: rig.keeper.looks > looks + 1, "it has looked again")
    assert rig.model().phase is Phase.READY
    ollama.kill()
    rig.until_model(Phase.STARTING, reason="the instance is not running: the kernel module nvidia-uvm is not loaded")
    rig.node_fault = None
    ollama.start()
    rig.until_model(Phase.READY)


def test_a_hung_instance_is_a_fault_and_recovers(make: Any, ollama: FakeOllama) -> None:
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    ollama.may_answer.clear()
    rig.until_model(Phase.FAULT, reason="does not answer: /api/version gives no answer in 0.2 s")
    ollama.may_answer.set()
    rig.until_model(Phase.READY)
    assert ollama.loads() == [LLAMA], "nothing was lost, so nothing is loaded again"


def test_an_unload_is_healed_while_another_model_is_being_downloaded(make: Any, ollama: FakeOllama) -> None:
    ollama.pull_may_go_on.clear()
    rig = make(model(), model("big:70b"), stored=(LLAMA,))
    rig.until_model(Phase.DOWNLOADING, "big:70b")
    rig.until_model(Phase.READY)
    ollama.resident.clear()
    until(lambda: ollama.loads() == [LLAMA] * 2, "it is loaded again at once")
    assert rig.model("big:70b").phase is Phase.DOWNLOADING


def test_a_driver_mismatch_is_a_fault_in_nvidia_smis_words(make: Any, ollama: FakeOllama) -> None:
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    rig.report = report(error="Failed to initialize NVML: Driver/library version mismatch")
    rig.until_model(Phase.FAULT, reason="Failed to initialize NVML: Driver/library version mismatch")


def test_a_model_partly_on_the_cpu_is_a_fault_and_is_loaded_anew_once_there_is_room(
    make: Any, ollama: FakeOllama
) -> None:
    ollama.vram = ollama.size * 6 // 10
    rig = make(stored=(LLAMA,), gpus=report(*UUIDS, memory_used=24 * 2**30))
    rig.until_model(Phase.FAULT, reason="llama3:8b runs 40 % on the CPU")
    assert ollama.loads() == [LLAMA], "without room a new load would change nothing"
    ollama.vram = ollama.size
    rig.report = report(*UUIDS)
    rig.until_model(Phase.READY)
    assert {"model": LLAMA, "keep_alive": 0} in [body for _, body in ollama.calls]


def test_another_context_and_ecc_errors_are_notes_on_a_model_that_serves(make: Any, ollama: FakeOllama) -> None:
    ollama.context = 4096
    rig = make(stored=(LLAMA,))
    assert "4096 tokens instead of 8192" in (rig.until_model(Phase.READY).reason or "")
    rig.report = report(*UUIDS, ecc_uncorrected=3)
    until(lambda: "3 uncorrected memory errors" in (rig.view().reason or ""), "the note on the GPU")
    assert rig.view().phase is Phase.READY


def test_an_environment_without_gpus_is_a_fault(make: Any, ollama: FakeOllama, env_file: Path) -> None:
    env_file.write_text("CUDA_VISIBLE_DEVICES=\n")
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.FAULT, reason="CUDA_VISIBLE_DEVICES names no GPU")
    assert ollama.loads() == []


def test_no_phase_flickers_on_the_way(make: Any, ollama: FakeOllama) -> None:
    rig = make()
    rig.until_model(Phase.READY)
    phases = [line.removeprefix(f"a {LLAMA}: ").split(" (")[0] for line in rig.log if line.startswith(f"a {LLAMA}: ")]
    changes = [phase for phase in phases if "->" in phase]
    assert changes == ["starting -> downloading", "downloading -> loading", "loading -> ready"], rig.log


def test_a_lost_gpu_is_a_fault_by_its_number_and_heals_when_it_is_back(make: Any, ollama: FakeOllama) -> None:
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    rig.report = report(UUIDS[0])
    rig.until_model(Phase.FAULT, reason="GPU 1 (GPU-bbbbbbbb) is not visible; the group has 1 of its 2 GPUs")
    assert rig.view().phase is Phase.FAULT
    rig.report = report(*UUIDS)
    rig.until_model(Phase.READY)


def test_nothing_is_loaded_while_a_gpu_is_missing(make: Any, ollama: FakeOllama) -> None:
    rig = make(gpus=report(UUIDS[0]))
    # The download may go on; the load, which would end on the CPU, may not.
    until(lambda: LLAMA in ollama.stored, "downloaded")
    looked = rig.keeper.looks
    until(lambda: rig.keeper.looks > looked + 3, "looked again")
    assert ollama.loads() == []
    rig.report = report(*UUIDS)
    rig.until_model(Phase.READY)


def test_before_the_gpus_are_known_nothing_is_loaded(make: Any, ollama: FakeOllama) -> None:
    rig = make(stored=(LLAMA,), gpus=None)
    until(lambda: rig.keeper.looks > 3, "looked several times")
    assert (rig.view().phase, ollama.loads()) == (Phase.STARTING, [])
    rig.report = report(*UUIDS)
    rig.until_model(Phase.READY)


def test_a_faulty_download_does_not_stop_the_next_one(make: Any, ollama: FakeOllama) -> None:
    ollama.pull_errors[:] = ["pull model manifest: file does not exist"]
    rig = make(model(), model("big:70b"))
    rig.until_model(Phase.READY, "big:70b")
    rig.until_model(Phase.READY)
    assert [body["model"] for path, body in ollama.calls if path == "/api/pull"][:2] == [LLAMA, "big:70b"]


def test_a_keep_alive_that_cannot_be_renewed_is_a_note(make: Any, ollama: FakeOllama) -> None:
    ollama.make_resident(LLAMA, expires_at=SOON)
    ollama.load_errors[:] = ["server busy"] * 3
    rig = make(stored=(LLAMA,))
    assert "server busy" in (until(lambda: (rig.model() or ModelView("", Phase.STARTING)).reason, "a note"))
    assert rig.model().phase is Phase.READY
    until(lambda: rig.model().reason is None, "the note goes once it is renewed")


def test_a_model_that_was_deleted_by_hand_is_downloaded_again_and_not_ready_meanwhile(
    make: Any, ollama: FakeOllama
) -> None:
    rig = make(stored=(LLAMA,))
    rig.until_model(Phase.READY)
    ollama.pull_may_go_on.clear()
    ollama.stored.clear()
    assert LLAMA in ollama.resident
    rig.until_model(Phase.DOWNLOADING)
    ollama.pull_may_go_on.set()
    rig.until_model(Phase.READY)


def test_a_new_life_of_the_instance_ends_all_pauses(make: Any, ollama: FakeOllama) -> None:
    ollama.load_errors[:] = ["out of memory"]
    rig = make(stored=(LLAMA,), pace=replace(FAST, load_again_s=3600, load_cap_s=3600))
    rig.until_model(Phase.FAULT, reason="out of memory")
    ollama.kill()
    rig.until_model(Phase.STARTING)
    ollama.start()
    rig.until_model(Phase.READY)


def test_pauses_double_up_to_their_cap() -> None:
    backoff = Backoff(base_s=5, cap_s=30)
    pauses = []
    for now in (100.0, 200.0, 300.0, 400.0, 500.0):
        backoff.failed(now)
        pauses.append(backoff.not_before - now)
    assert pauses == [5, 10, 20, 30, 30]
    for now in range(600, 100_000, 10):
        backoff.failed(now)
    assert backoff.not_before == now + 30, "days of failures do not overflow"


def test_one_success_is_free_and_successes_in_a_row_are_not() -> None:
    backoff = Backoff(base_s=2, cap_s=30, calm_s=60)
    pauses = []
    for now in (100.0, 110.0, 120.0, 130.0, 1000.0):
        backoff.succeeded(now)
        pauses.append(backoff.not_before - now)
    assert pauses == [0, 2, 4, 8, 0]


# One copy of the weights for a host


def test_a_model_that_another_store_of_the_host_has_is_not_downloaded(make: Any, ollama: FakeOllama) -> None:
    told: list[tuple[str, str]] = []
    may_end = threading.Event()

    def obtain(group: str, name: str, tell: Callable[[int, int], None]) -> bool:
        told.append((group, name))
        tell(30, 100)
        may_end.wait(5)
        ollama.stored[name] = "2026-02-01T00:00:00Z"
        return True

    source = "mirror:5000/library/llama3:8b"
    rig = make(model(source=source, insecure=True), obtain=obtain)
    copied = rig.until_model(Phase.DOWNLOADING)
    assert (copied.completed, copied.total) == (30, 100)
    may_end.set()
    rig.until_model(Phase.READY)
    assert told == [("a", LLAMA)]
    assert not {"/api/pull", "/api/copy", "/api/delete"} & set(ollama.paths())


def test_trouble_with_the_other_stores_costs_a_download_and_not_the_model(make: Any, ollama: FakeOllama) -> None:
    def obtain(group: str, name: str, tell: Callable[[int, int], None]) -> bool:
        raise ShareError("/run/flexi-share.sock: Connection refused")

    rig = make(obtain=obtain)
    rig.until_model(Phase.READY)
    assert ollama.paths().count("/api/pull") == 1
    assert (
        f"a {LLAMA}: cannot be had from this host's other stores: /run/flexi-share.sock: Connection refused" in rig.log
    )


def test_what_came_but_is_not_listed_is_not_asked_for_all_day(make: Any) -> None:
    times: list[float] = []

    def obtain(group: str, name: str, tell: Callable[[int, int], None]) -> bool:
        times.append(time.monotonic())
        return True

    make(obtain=obtain, pace=replace(FAST, pull_again_s=0.2, pull_cap_s=0.2))
    until(lambda: len(times) == 4, "asked again")
    assert times[3] - times[1] > 0.3


@pytest.fixture
def pair(tmp_path: Path, env_file: Path) -> Iterator[Any]:
    """Two groups of a host that have the same model: `start` starts the keeper of one.
    What one store has, the other can have."""
    with fake_ollama() as first, fake_ollama() as second:
        ollamas = {"a": first, "b": second}
        configs = [instance(group, fake.url, env_file, model()) for group, fake in ollamas.items()]
        downloads = Downloads(configs)
        rigs: list[Rig] = []
        asked: list[str] = []

        def obtain(group: str, name: str, tell: Callable[[int, int], None]) -> bool:
            asked.append(group)
            if not any(name in fake.stored for other, fake in ollamas.items() if other != group):
                return False
            ollamas[group].stored[name] = "2026-02-01T00:00:00Z"
            return True

        def start(group: str, download_breaks: bool = False, away: bool = False) -> Rig:
            if away:
                ollamas[group].kill()
            if download_breaks:
                ollamas[group].pull_errors.append("")
                ollamas[group].pull_may_go_on.clear()
            rig = Rig(ollamas[group], env_file, (model(),), report(*UUIDS), FAST, group, downloads, obtain)
            rigs.append(rig)
            return rig

        yield SimpleNamespace(start=start, asked=asked)
        for rig in rigs:
            rig.keeper.stop()


def test_the_first_group_downloads_and_the_others_wait_and_link(pair: Any) -> None:
    second = pair.start("b")
    second.until_model(Phase.STARTING, reason="waits for group a's download")
    first = pair.start("a")
    for rig in (first, second):
        rig.until_model(Phase.READY)
    assert first.ollama.paths().count("/api/pull") == 1
    assert "/api/pull" not in second.ollama.paths()
    assert pair.asked.count("b") == 1, "who waits asks for nothing"


def test_a_first_group_that_is_away_holds_up_nobody(pair: Any) -> None:
    first = pair.start("a", away=True)
    first.until_model(Phase.STARTING, reason="not running")
    second = pair.start("b")
    second.until_model(Phase.READY)
    assert second.ollama.paths().count("/api/pull") == 1
    first.ollama.start()
    first.until_model(Phase.READY)
    assert "/api/pull" not in first.ollama.paths()


def test_a_download_that_breaks_with_its_instance_is_taken_over(pair: Any) -> None:
    first, second = pair.start("a", download_breaks=True), pair.start("b")
    first.until_model(Phase.DOWNLOADING)
    first.ollama.kill()
    first.ollama.pull_may_go_on.set()
    second.until_model(Phase.READY)
    assert second.ollama.paths().count("/api/pull") == 1


def test_models_that_the_site_does_not_want_there_are_named(make: Any) -> None:
    source = "mirror:5000/library/llama3:8b"
    rig = make(model(source=source), stored=(LLAMA, "Phi3:3.8b", "mistral"))
    rig.until_model(Phase.READY)
    assert rig.view().surplus == ("mistral:latest", "phi3:3.8b")


def test_a_model_that_was_taken_away_makes_room_for_the_next(make: Any, ollama: FakeOllama) -> None:
    """The group had phi3 in the place of llama3, and its settings are the same: nothing was restarted."""
    ollama.make_resident("phi3:3.8b")
    ollama.make_resident("mistral:7b")
    rig = make(model("mistral:7b"), model(), stored=(LLAMA, "mistral:7b", "phi3:3.8b"))
    rig.until_model(Phase.READY)
    assert ("/api/generate", {"model": "phi3:3.8b", "keep_alive": 0}) in ollama.calls
    assert set(ollama.resident) == {LLAMA, "mistral:7b"}
    rig.until_model(Phase.READY, "mistral:7b")
