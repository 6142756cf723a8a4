"""The bench measures what it says, and PyTorch's batched attack is the same attack."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import bench as convert_bench
from convert import reference
from convert.batched import Batched
from convert.checking.comparison import classifier, tensor
from convert.torchvision import to_torch
from experiments.bench.__main__ import table
from experiments.bench.work import multiply_adds, near_work, trunk_work, with_looks
from gcpatch import cli
from gcpatch.attacks import engine
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.cli import bench as bench_verb
from gcpatch.evaluation import bench
from gcpatch.networks import MINIS, random

FIELDS = {
    "network",
    "size",
    "batch",
    "variant",
    "image_steps_per_second",
    "seconds_per_step",
    "peak_memory_bytes",
    "compile_seconds",
}


@pytest.mark.parametrize(
    "name", ["mini_vgg_bn", pytest.param("mini_resnext", marks=pytest.mark.slow)]
)
def test_batched_pytorch_takes_the_steps_of_the_reference(name):
    network = random(name, 2)
    images, targets, corner = bench.images_for(2, 96), [3, 7], (5, 40)
    fast = Batched(network, to_torch(network), images, targets, corner, 32, compiled=False)
    losses = [fast.step().numpy() for _ in range(3)]
    how = Attack()
    assert how.balance
    settings = reference.Settings(
        "hide",
        "adam",
        how.rate,
        3,
        32,
        corner,
        ce_weight=how.ce_weight,
        balance=True,
    )
    model = classifier(network, to_torch(network))
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        wanted = reference.attack(model, tensor(image), torch.zeros(3, 32, 32), target, settings)
        for step in range(3):
            total = float(wanted.history[step].total.detach())
            assert losses[step][i] == pytest.approx(total, rel=1e-3)
        same = np.isclose(fast.noise[i].detach(), wanted.noise, atol=1e-2)
        assert same.mean() > 0.98  # adam's first steps are signs, which rounding turns near 0


def test_clock_gives_the_median_of_a_step(monkeypatch):
    times = iter(np.cumsum([0, 5, 0, 1, 0, 2, 0, 6, 0, 4]).astype(float))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    found = bench.clock(lambda: None, repeats=3, steps=2)
    assert found == bench.Timing(first=5.0, step=2.0, spread=1.0 * (3 - 1) / 2)


@pytest.mark.parametrize("variant", bench.VARIANTS)
def test_a_row_is_whole(tiny, variant, monkeypatch):
    monkeypatch.setattr(bench, "LEAST_SECONDS", 0)
    monkeypatch.setattr(bench, "side_of", lambda network: 28)
    row = bench.measure(tiny, 8, 2, variant, repeats=1)
    assert row.image_steps_per_second == pytest.approx(2 / row.seconds_per_step)
    assert min(row.seconds_per_step, row.peak_memory_bytes, row.compile_seconds) > 0


def test_pytorch_gives_the_same_row(monkeypatch):
    monkeypatch.setattr(bench, "LEAST_SECONDS", 0)
    row = convert_bench.measure(random("mini_resnext"), 32, 3, "torch-single", repeats=1)
    assert (row.batch, row.variant) == (1, "torch-single")
    assert row.image_steps_per_second == pytest.approx(1 / row.seconds_per_step)


def test_multiply_adds_of_layers_by_hand():
    image, kernel = jnp.zeros((1, 6, 5, 4)), jnp.zeros((3, 3, 2, 8))

    def function(image, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        image = jax.nn.relu(
            jax.lax.conv_general_dilated(
                image,
                kernel,
                (1, 1),
                "VALID",
                dimension_numbers=dimensions,
                feature_group_count=2,
            )
        )
        return image.reshape(-1, 8) @ jnp.zeros((8, 11))

    assert multiply_adds(function, image, kernel) == 4 * 3 * 8 * 9 * 2 + 4 * 3 * 8 * 11


def test_a_patch_reaches_less_the_smaller_it_is():
    network = random(MINIS[0])
    full, large = trunk_work(network, 64)
    same, small = trunk_work(network, 32)
    assert same == full > large > small > 0


def test_the_near_field_computes_less_and_looks_too():
    network = random("wide_resnet101_2")
    full, exact = trunk_work(network, 64)
    _, steps_alone = trunk_work(network, 64, engine.MARGIN)
    assert steps_alone < near_work(network, 64) < exact < full
    assert with_looks(wide=100, reached=10, every=5) == 10 + 10  # 20 forward, 20 + 20 a step
    assert with_looks(wide=100, reached=10, every=None) == 10


def test_a_step_in_the_near_field_has_its_part_of_the_looks(monkeypatch):
    times = iter([bench.Timing(3.0, 0.5, 0.1), bench.Timing(9.0, 8.0, 0.0)])
    monkeypatch.setattr(bench, "clock", lambda *arguments: next(times))
    network = random("mini_wide_resnet")
    side = network.preprocessing.size
    image, attack = jax.ShapeDtypeStruct((side, side, 3), "float32"), Attack(reach="near")
    reach = engine.choose_reach(
        network, image, corner=Patch(64).corner(side, side), size=64, attack=attack
    )
    row = bench.measure(network, 64, 2, "gcpatch-near")
    assert row.seconds_per_step == pytest.approx(0.5 + 2 * 8.0 / reach.every)
    assert row.image_steps_per_second == pytest.approx(2 / row.seconds_per_step)
    assert row.compile_seconds > 9


def test_the_command_line_prints_the_contract(capsys, monkeypatch):
    def measure(network, size, batch, variant, repeats):
        return bench.Row(network.name, size, batch, variant, 3.0, batch / 3, 0.1, 7, 1.5)

    monkeypatch.setattr(bench, "product_peak", lambda: 1e9)
    monkeypatch.setattr(
        bench_verb, "measures_of_variants", lambda: dict.fromkeys(bench.VARIANTS, measure)
    )
    arguments = ["bench", "--networks", "mini_vgg", "--sizes", "32,16", "--batches", "1"]
    assert cli.main([*arguments, "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["size"] for row in found["rows"]] == [32] * 3 + [16] * 3
    assert all(row.keys() >= FIELDS for row in found["rows"])
    assert found["machine"]["multiply_adds_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "vgg18"], "vgg18"),
        (["--sizes", "64,x"], "'64,x'"),
        (["--sizes", "500"], "500"),
        (["--batches", "0"], "'0'"),
        (["--repeats", "0"], "repeats is 0"),
    ],
)
def test_bad_options_are_one_line(arguments, message, capsys):
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_table_compares_with_batched_pytorch():
    def row(variant, pace, work):
        return {
            "network": "n",
            "size": 64,
            "batch": 1 if variant == "torch-single" else 8,
            "variant": variant,
            "image_steps_per_second": pace,
            "spread": 0.01,
            "peak_memory_bytes": 8e6,
            "compile_seconds": 1.0,
            "multiply_adds": work,
            "limit": 5.0,
        }

    rows = [
        row("torch-batched", 2.0, 1e9),
        row("gcpatch-full", 2.5, 1e9),
        row("gcpatch-incremental", 10.0, 2e8),
    ]
    lines = table({"machine": {"multiply_adds_per_second": 1e10}, "rows": rows})
    cells = lines[-1].split(" | ")
    assert cells[6:9] == ["5.00x", "80% of 5.00x", "40%"]
