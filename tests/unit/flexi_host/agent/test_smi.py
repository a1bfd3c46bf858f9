"""The one parser of nvidia-smi's answers and its judgement, fed with the collection in tests/unit/smi."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from flexi_host.agent import smi
from flexi_host.agent.smi import Expected, Gpu

COLLECTION = Path(__file__).parent / "smi"
SHAPES = sorted(path.stem for path in COLLECTION.glob("*.txt"))
MIB = 2**20


@dataclass(frozen=True)
class Shape:
    """A file of the collection."""

    head: dict[str, str]
    answer: str
    health: str

    @classmethod
    def read(cls, name: str) -> Shape:
        text = (COLLECTION / f"{name}.txt").read_bytes().decode()
        head, _, rest = text.partition("--- answer\n")
        answer, _, health = rest.partition("--- health\n")
        pairs = (line.removeprefix("# ").partition(": ") for line in head.splitlines())
        return cls({key.rstrip(":"): value.strip() for key, _, value in pairs}, answer, health)

    def numbers(self, key: str) -> list[int]:
        return [int(number) for number in self.head.get(key, "").split()]

    @property
    def faults(self) -> dict[int, str]:
        pairs = (item.split("=") for item in self.head.get("faults", "").split(", ") if item)
        return {int(index): words for index, words in pairs}


def test_the_collection_is_there_with_its_sources() -> None:
    heads = [Shape.read(name).head for name in SHAPES]
    assert all(head["source"] and head["driver"] for head in heads)
    branches = {head["driver"].partition(".")[0] for head in heads} - {"any"}
    assert branches >= {"450", "460", "470", "510", "515", "525", "535", "550", "570", "575", "580", "590", "595"}


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_is_judged(name: str) -> None:
    shape = Shape.read(name)
    cards = smi.judge(shape.answer, int(shape.head["status"]), health=shape.health)
    assert [gpu.index for gpu in cards.usable] == shape.numbers("usable")
    found = {gpu.index: gpu.fault for gpu in cards.gpus if gpu.fault}
    assert found.keys() == shape.faults.keys()
    assert all(words in (found[index] or "") for index, words in shape.faults.items()), found
    assert [gpu.index for gpu in cards.gpus if gpu.split] == shape.numbers("split")
    assert len({gpu.uuid for gpu in cards.gpus}) == len(cards.gpus), "a card counts once"
    for key, complaints in (("errors", cards.errors), ("warnings", cards.warnings)):
        assert bool(complaints) == bool(shape.head.get(key)), complaints
        assert not complaints or shape.head[key] in complaints[0]


def test_values_are_read_whatever_their_spelling() -> None:
    shape = Shape.read("made-other-spellings")
    assert [
        (gpu.memory_total, gpu.memory_used, gpu.utilization_percent, gpu.temperature_c, gpu.ecc_uncorrected)
        for gpu in smi.judge(shape.answer, 0).gpus
    ] == [(46068 * MIB, MIB, None, 34, None), (46068 * MIB, MIB, 0, None, None)]
    first, second = smi.judge(Shape.read("made-comma-blank").answer, 0).gpus
    assert (first.name, first.driver_version, second.memory_used) == ("Example, Inc. A40", "535.161.08", MIB)


@pytest.mark.parametrize(
    ("version", "asked"),
    [("535.309.01", False), ("550.54.15", False), ("570.124.06", True), ("580.95", True), ("", True), ("[N/A]", True)],
)
def test_the_recovery_action_is_asked_only_of_drivers_that_know_it(version: str, asked: bool) -> None:
    assert ("gpu_recovery_action" in smi.health_fields(version)) is asked


def test_an_unknown_column_is_told() -> None:
    text = 'Field "gpu_recovery_action" is not a valid field to query.\n\n'
    assert smi.unknown_field(text) == "gpu_recovery_action"
    assert smi.unknown_field("0, GPU-1, NVIDIA A40") is None


# Names as published outputs of nvidia-smi have them; sizes also by modal-labs/modal-client, pull request 2797.
SAME = [
    ("NVIDIA A40", 46068, Expected("A40", 46068)),
    ("NVIDIA A40", 49140, Expected("A40", 46068)),  # ECC off
    ("A40", 46068, Expected("nvidia a40", 46068)),
    ("NVIDIA RTX A5000", 24564, Expected("RTX A5000", 24564)),
    ("NVIDIA RTX A5000", 23028, Expected("RTX A5000", 24564)),  # ECC on
    ("NVIDIA RTX A6000", 46068, Expected("RTX A6000", 49140)),
    ("Tesla V100-SXM2-32GB", 32510, Expected("V100", 32510, memory_said=True)),
    ("Tesla V100-SXM2-32GB", 32510, Expected("Tesla V100-SXM2-32GB", 32768, memory_said=True)),
    ("A100-SXM4-40GB", 40536, Expected("A100 40GB", 40960)),
    ("NVIDIA A100 80GB PCIe", 81920, Expected("A100 80GB", 81920)),
    ("NVIDIA H100 80GB HBM3", 81559, Expected("H100 80GB", 81559)),
    ("NVIDIA H100 PCIe", 81559, Expected("H100 80GB", 81559)),
    ("NVIDIA H200", 143771, Expected("H200", 143771)),
    ("NVIDIA GeForce RTX 3090", 24576, Expected("GeForce RTX 3090", 24576)),
    ("NVIDIA GeForce RTX 3090", 24576, Expected("RTX 3090", 24576, memory_said=True)),
    ("NVIDIA RTX 6000 Ada Generation", 49140, Expected("RTX 6000 Ada Generation", 49140)),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, Expected("RTX PRO 6000 Blackwell", 97887, True)),
    ("Quadro RTX 8000", 49152, Expected("RTX8000", 49152, memory_said=True)),
    ("NVIDIA L40S", 46068, Expected("L40S", 40000, memory_said=True)),  # less on purpose
    ("GRID A100-10C", 10240, Expected("GRID A100-10C", 10240, memory_said=True)),
    ("NVIDIA A40-48Q", 49152, Expected("A40-48Q", 49152, memory_said=True)),
    ("NVIDIA GB10", None, Expected("GB10", 122880, memory_said=True)),
]
OTHER = [
    ("NVIDIA A40", 46068, Expected("H200", 143771)),
    ("NVIDIA A40", 46068, Expected("L40", 46068)),
    ("NVIDIA L40S", 46068, Expected("L40", 46068)),
    ("NVIDIA RTX A4000", 16376, Expected("A40", 46068)),
    ("NVIDIA A400", 4096, Expected("A40", 46068)),
    ("NVIDIA GH200 480GB", 97871, Expected("H200", 143771)),
    ("Quadro RTX 6000", 24220, Expected("RTX 6000 Ada Generation", 49140)),
    ("NVIDIA A100-SXM4-40GB", 40960, Expected("A100 80GB", 81920)),
    ("NVIDIA A100-SXM4-80GB", 81920, Expected("A100 40GB", 40960)),
    ("NVIDIA H100 NVL", 95830, Expected("H100 80GB", 81559)),
    ("Tesla V100-SXM2-16GB", 16160, Expected("V100", 32510, memory_said=True)),
    ("NVIDIA GeForce RTX 3090 Ti", 24564, Expected("GeForce RTX 3090", 24576)),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, Expected("GeForce RTX 4090", 24564)),
    ("NVIDIA GeForce RTX 4090 D", 24564, Expected("GeForce RTX 4090", 24564)),
    ("GRID A100-10C", 10240, Expected("A100 40GB", 40960)),
    ("GRID A100-40C", 40960, Expected("A100 40GB", 40960)),
    ("NVIDIA A40-48Q", 49152, Expected("A40", 46068)),
    ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 40960, Expected("A100 40GB", 40960)),
]


def card(name: str, mib: int | None) -> Gpu:
    return Gpu(1, "GPU-ab12cd34-0000", name, None if mib is None else mib * MIB)


@pytest.mark.parametrize(("name", "mib", "expected"), SAME)
def test_a_card_is_the_site_files(name: str, mib: int | None, expected: Expected) -> None:
    assert smi.other(card(name, mib), expected) is None


@pytest.mark.parametrize(("name", "mib", "expected"), OTHER)
def test_a_card_is_another_than_the_site_files(name: str, mib: int, expected: Expected) -> None:
    words = smi.other(card(name, mib), expected)
    assert words is not None
    assert words.startswith("GPU 1 (GPU-ab12cd34)")
    assert (name in words, expected.model in words, str(mib) in words) == (True, True, True)


def test_of_mixed_cards_only_the_others_are_named() -> None:
    rows = ("0, GPU-0, NVIDIA A40, 46068", "1, GPU-1, NVIDIA RTX A5000, 24564")
    cards = smi.judge("\n".join(rows), 0, ("index", "uuid", "name", "memory.total"))
    words = [smi.other(gpu, Expected("A40", 46068)) for gpu in cards.gpus]
    assert words[0] is None
    assert words[1] == "GPU 1 (GPU-1) is a NVIDIA RTX A5000 with 24564 MiB, the site file says A40 with 46068 MiB"


def test_a_split_card_is_no_whole_one() -> None:
    shape = Shape.read("580-mig")
    first, second = smi.judge(shape.answer, 0, health=shape.health).gpus
    assert "split by MIG" in (smi.other(first, Expected("H100 80GB", 81559)) or "")
    assert smi.other(second, Expected("H100 80GB", 81559)) is None


def test_a_card_with_a_fault_is_not_called_another() -> None:
    shape = Shape.read("made-unknown-words")
    assert [smi.other(gpu, Expected("H200", 143771)) for gpu in smi.judge(shape.answer, 0).gpus] == [None] * 5
