import csv
import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import train
from experiments.beyond import __main__ as command
from experiments.beyond import cells, full, images, tables
from experiments.beyond.cells import Cell
from experiments.beyond.images import Images
from gcpatch.data.scenes import CATEGORIES
from gcpatch.errors import UserError
from gcpatch.evaluation.intervals import Estimate
from gcpatch.networks import create, parameters
from gcpatch.runs.journal import RunError

NETWORKS = "mini_vgg_bn", "mini_vgg"


def test_every_cell_is_a_folder_of_its_own():
    planned = cells.plan(NETWORKS)
    assert len({cell.folder for cell in planned}) == len(planned) == len(set(planned))


def test_the_baseline_is_in_every_table():
    for table in tables.TABLES.values():
        found = table.cells(NETWORKS)
        assert set(found) <= set(cells.plan(NETWORKS))
        for cell in found:
            assert cell._replace(objective="classify") in found


def test_the_first_network_has_every_combination():
    combinations = itertools.product(
        (64, 32), (1, 0.2), ("top-right", "top-left"), cells.OBJECTIVES
    )
    wanted = {("mini_vgg_bn", o, *patch) for *patch, o in combinations}
    assert {cell[:5] for cell in cells.factorial(NETWORKS)} == wanted


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A cell of four scenes, attacked for three steps."""
    out = tmp_path_factory.mktemp("beyond")
    cell, items = Cell("tiny", "hide", 32, 0.2, "top-left"), cells.draw(4)
    cells.keep_maps(tiny, items, out / "tiny" / "maps.npz")
    cells.attack(cell, tiny, items, 3, 2, out)
    return out, cell


@pytest.mark.slow
def test_what_is_done_is_not_attacked_again(folder, tiny, monkeypatch):
    out, cell = folder
    monkeypatch.setattr(cells.campaigns, "run", None)
    cells.attack(cell, tiny, cells.draw(4), 3, 2, out)
    with pytest.raises(TypeError):
        cells.attack(cell._replace(ratio=0.3), tiny, cells.draw(4), 3, 2, out)


def test_fewer_steps_are_another_run(folder, tiny):
    out, cell = folder
    with pytest.raises(RunError, match="other settings"):
        cells.attack(cell, tiny, cells.draw(4), 2, 2, out)


def test_what_the_records_say(folder):
    out, cell = folder
    found = images.read(out / cell.folder, out / "tiny" / "maps.npz")
    lines = (out / cell.folder / "results.jsonl").read_text().splitlines()
    records = sorted(map(json.loads, lines), key=lambda record: record["id"])
    for n, record in enumerate(records):
        assert found.fooled[n] == record["fooled_class"]
        assert found.hidden[n] == record["fooled_explanation"]
        assert found.goal[n] == (record["steps"] if record["converged"] else np.inf)
    assert len(records) == len(found.psnr) == 4
    with np.load(out / "tiny" / "maps.npz") as maps:
        heats = [maps[record["id"]] for record in records]
    shares = [heat[:16, :16].sum() / heat.sum() for heat in heats]  # a cell is two pixels wide
    np.testing.assert_allclose(found.patch_before, shares, rtol=1e-5)


def test_first_step():
    assert images.first(np.array([False, True, True])) == 2
    assert images.first(np.array([False])) == np.inf


def some(fooled=(True, False), **columns):
    flags, numbers = np.array(fooled), np.linspace(0, 1, len(fooled))
    whole = dict.fromkeys(Images._fields, numbers)
    return Images(**whole | dict.fromkeys(("fooled", "hidden", "highlighted"), flags) | columns)


def test_no_heat_is_not_a_share_of_the_map():
    found = some(patch=np.array([np.nan, 0.5]), object=np.array([np.nan, 0.25]))
    numbers = {c.heading: c.estimate(found) for c in (*tables.ENERGY, *tables.HEAT)}
    assert numbers["attacked"] == (0.5, 0.5, 0.5)
    assert numbers["no heat at all"].value == 0.5
    assert numbers["elsewhere, attacked"] == (0.25, 0.25, 0.25)
    nothing = some(patch=np.full(2, np.nan), object=np.full(2, np.nan))
    (attacked,) = (column for column in tables.ENERGY if column.heading == "attacked")
    assert attacked.estimate(nothing) is None


def test_an_interval_in_words():
    assert tables.GOAL.text(Estimate(40, 31.6, np.inf), 100) == "40 [32, > 100]"
    assert tables.RATES[0].text(Estimate(0.5, 0.4375, 0.5625), 100) == "50% [44%, 56%]"
    assert tables.GOAL.text(None, 100) == "-"


def test_rows_and_files(tmp_path):
    table = tables.TABLES["steps"]
    pair = Cell("mini_vgg_bn", "hide"), Cell("mini_vgg", "hide")
    runs = {pair[0]: some(), pair[1]: some(goal=np.array([3.0, 5.0]))}
    found = tables.rows(table, runs, NETWORKS)
    assert [cell for cell, _ in found] == list(pair)
    head, _, _, second = tables.markdown(table, found, 100)
    assert head.startswith("| network | goal met | steps to the goal |")
    assert second.startswith("| mini_vgg | 100% [34%, 100%] | 4 [3, 5] |")
    tables.write_csv(table, found, tmp_path / "steps.csv")
    with open(tmp_path / "steps.csv") as file:
        lines = list(csv.DictReader(file))
    assert lines[1]["steps to the goal"] == "4" and lines[1]["steps to the goal high"] == "5"


def test_differences_are_scene_by_scene():
    table = tables.TABLES["positions"]
    right = Cell("mini_vgg_bn", "hide")
    left = right._replace(position="top-left")
    runs = {
        right: some(fooled=(True, True, False)),
        left: some(fooled=(True, False, False)),
    }
    [(cell, numbers)] = tables.rows(table, runs, NETWORKS)
    assert cell == right and numbers[0].value == pytest.approx(1 / 3)
    assert numbers[0].low == 0 and numbers[0].high == 1
    same = tables.rows(table, {right: runs[left], left: runs[left]}, NETWORKS)
    assert same[0][1][0] == (0, 0, 0)
    assert tables.rows(table, {right: runs[right]}, NETWORKS) == []


def test_a_network_for_scenes_has_their_classes():
    network = train.fresh("resnext50_32x4d")
    assert parameters(network)["fc.kernel"].shape == (2048, 10)
    assert network.categories == CATEGORIES


def test_training_goes_on_until_it_is_enough(tmp_path, monkeypatch):
    asked = []

    def fake(name, steps, windowed, head_steps, count, batch, rate, out):
        asked.append(steps)
        half = {key: np.float16(leaf) for key, leaf in parameters(train.fresh(name)).items()}
        out.mkdir(exist_ok=True)
        np.savez(out / f"{name}.npz", **half)
        return shares[len(asked) - 1]

    monkeypatch.setattr(train, "train", fake)
    monkeypatch.setitem(full.RECIPES, "mini_vgg", full.Recipe(10, 5, 1e-3))
    shares = [0.5, 0.9, 0.979]
    with pytest.raises(UserError, match=r"97\.90%"):
        full.trained("mini_vgg", tmp_path)
    asked.clear()
    shares = [0.5, 0.98]
    network = full.trained("mini_vgg", tmp_path)
    assert asked == [10, 20]
    again = full.trained("mini_vgg", tmp_path)  # from its checkpoint
    assert asked == [10, 20] and again.categories == network.categories == CATEGORIES


@pytest.mark.slow
def test_the_command_for_full_networks(tmp_path, monkeypatch, capsys):
    draw, plan = train.draw, [Cell("mini_vgg", "classify"), Cell("mini_vgg", "hide")]
    monkeypatch.setattr(train, "draw", lambda seed, count: draw(seed, min(count, 16)))
    monkeypatch.setattr(full, "RECIPES", {"mini_vgg": full.Recipe(2, 1, 1e-3, 16, 4)})
    monkeypatch.setattr(full, "ENOUGH", 0.0)
    monkeypatch.setattr(command, "SETS", {"full": ("mini_vgg",)})
    monkeypatch.setattr(cells, "plan", lambda networks: plan)
    options = ["--networks", "full", "--scenes", "2", "--steps", "2", "--batch", "2"]
    monkeypatch.setattr("sys.argv", ["beyond", *options, "--out", str(tmp_path)])
    command.main()
    said = capsys.readouterr().out
    assert "2 cells at" in said and "training about" in said
    text = (tmp_path / "tables" / "tables.md").read_text()
    assert "2 of 2 cells" in text and "| hide | " in text
    for name in ("success", "stealth", "heat"):
        assert (tmp_path / "tables" / f"{name}.csv").read_text().count("\n") == 3
        assert (tmp_path / "tables" / f"{name}.png").stat().st_size > 5000

    monkeypatch.setattr(cells.campaigns, "run", None)
    monkeypatch.setattr(train, "train", None)
    command.main()  # everything is there
    assert capsys.readouterr().out == f"{tmp_path}/tables/tables.md\n"
    assert (tmp_path / "tables" / "tables.md").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("name", full.RECIPES)
def test_a_step_of_training_at_full_size_can_be_traced(name):
    graph, weights, statistics = nnx.split(create(name, CATEGORIES), nnx.Param, nnx.BatchStat)
    optimizer = optax.adamw(1e-3)
    state = train.Training(weights, statistics, jax.eval_shape(optimizer.init, weights))
    pool = train.Pool(
        jax.ShapeDtypeStruct((4, 224, 224, 3), "uint8"),
        jax.ShapeDtypeStruct((4,), "int32"),
        jax.ShapeDtypeStruct((4, 2), "int32"),
    )
    step = train.make_step(graph, optimizer)
    for size in (train.WINDOW, train.SIZE):
        new, loss, share = jax.eval_shape(partial(step, size=size), state, jax.random.key(0), pool)
        assert loss.shape == share.shape == ()
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
