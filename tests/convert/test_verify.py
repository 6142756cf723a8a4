"""`gcpatch verify`: it passes where both compute the same, and fails where a fault is put in."""

import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from jax.test_util import check_grads

torch = pytest.importorskip("torch")

from packing import id_of
from tinies import RESNET_OPTIONS, VGG_OPTIONS, double

from convert.checking import comparison, twins
from convert.checking.comparison import compare, errors, first_difference
from convert.torchvision import to_torch, twin
from gcpatch import cli
from gcpatch.attacks import engine, settings, step
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import Problem, evaluate
from gcpatch.data import images
from gcpatch.evaluation import metrics
from gcpatch.explainers import cam
from gcpatch.networks import MINIS, Network, fill, layers, lowering, parameters, random

SIDE = 64


def pictures(count=2, side=SIDE):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(autouse=True)
def tiny_twins(monkeypatch):
    """torch's twins of the tiny networks as well."""

    def find(name, classes=None, **options):
        if name == "tiny":
            return twins._small_vgg(classes, **VGG_OPTIONS).eval()
        if name == "tiny_resnet":
            return twins._small_resnet(classes, **RESNET_OPTIONS).eval()
        return twin(name, classes, **options)

    monkeypatch.setattr(twins, "twin", find)


# ---- it passes -----------------------------------------------------------------------------------


def agree_in_float64(network, pictures):
    rows = compare(network, to_torch(network), pictures, "float64")
    assert first_difference(rows) is None
    quantities = [row.quantity for row in rows]
    first, last = ("conv1", "fc") if "res" in network.name else ("features.0", "classifier.6")
    wanted = ["normalize", first, last, "logits", "alpha", "map", "top-1 classes", "top-5 classes"]
    assert [quantity for quantity in quantities if quantity in wanted] == wanted
    assert {row.network for row in rows} == {network.name}
    assert all(row.max_abs < 1e-9 and row.relative < 1e-10 for row in rows)
    for objective in ("hide", "highlight", "classify", "paper", "subramanya"):
        assert f"{objective}: gradient" in quantities
    assert not any("steps" in quantity for quantity in quantities)


def test_tiny_networks_agree_in_float64(tiny, tiny_resnet):
    for network in (tiny, tiny_resnet):
        agree_in_float64(network, pictures(1, 28 if network is tiny else SIDE))


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIS)
def test_minis_agree_in_float64(name):
    agree_in_float64(random(name), pictures())


def test_patches_agree_after_steps_of_every_optimizer(tiny):
    rows = compare(tiny, to_torch(tiny), pictures(1, 28), "float64", steps=4)
    assert first_difference(rows) is None
    patches = {row.quantity: row.tolerance for row in rows if "steps" in row.quantity}
    assert patches == {
        f"patch after 4 {name} steps": 1e-8 for name in ("sign", "sgd", "momentum", "adam")
    }


def test_float32_agrees_within_its_own_tolerances(tiny):
    rows = compare(tiny, to_torch(tiny), pictures(1, 28), "float32", steps=1, optimizers=["adam"])
    assert first_difference(rows) is None
    tolerances = {row.quantity: row.tolerance for row in rows}
    assert tolerances["map"] == 1e-4
    assert tolerances["hide: gradient"] == tolerances["hide: gradient, best image"] == 1e-3
    assert max(row.relative for row in rows) > 1e-9  # it is not float64


def test_errors_are_infinite_where_there_is_no_comparison():
    assert errors([3.0, 4.0], [3.0, 4.5]) == (0.5, pytest.approx(0.5 / np.hypot(3, 4.5)))
    assert errors([0.0], [0.0]) == (0, 0)
    assert errors([1e-9], [0.0])[1] == np.inf
    assert errors([[1.0]], [1.0]) == (np.inf, np.inf)
    assert errors([np.nan], [1.0]) == (np.inf, np.inf)


# ---- it fails: each fault is found, and where it is ----------------------------------------------


def changed(network, key, change):
    values = dict(parameters(network))
    return fill(network, values | {key: np.array(change(np.asarray(values[key])), order="C")})


def rebuilt(network):
    """A copy whose modules may be changed."""
    return nnx.merge(*nnx.split(network))


def same_padding(network, patch):
    def conv(inputs, kernel, strides, padding, **options):
        padding = "SAME" if tuple(strides) == (2, 2) else padding
        groups, precision = options.get("feature_group_count", 1), options.get("precision")
        return lax.conv_general_dilated(
            inputs,
            kernel,
            strides,
            padding,
            dimension_numbers=lowering.DIMENSIONS,
            feature_group_count=groups,
            precision=precision,
        )

    network = rebuilt(network)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = conv
    return network


def bn_epsilon(network, patch):
    network = rebuilt(network)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.BatchNorm):
            module.epsilon = 1e-3
    return network


def no_relu_in_the_classifier(network, patch):
    network = rebuilt(network)
    network.classifier[1] = layers.Dropout()
    return network


def hwc_flatten(network, patch):
    def flat(kernel):
        return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape)

    return changed(network, "classifier.0.kernel", flat)


def transposed_linear(network, patch):
    return changed(network, "classifier.3.kernel", np.transpose)


def swapped_groups(network, patch):
    def roll(kernel):
        return np.roll(kernel, kernel.shape[-1] // 2, -1)

    return changed(network, "layer1.0.conv2.kernel", roll)


def stride_on_the_first_1x1(network, patch):
    network = rebuilt(network)
    block = network.layer2[0]
    block.conv1.strides, block.conv2.strides = 2, 1
    return network


def bins_without_overlap(network, patch):
    def bins(length, count, dtype):
        matrix = np.zeros((count, length), dtype)
        for i in range(count):
            start, stop = (
                i * length // count,
                max((i + 1) * length // count, i * length // count + 1),
            )
            matrix[i, start:stop] = 1 / (stop - start)
        return matrix

    patch.setattr(layers, "_bins", bins)
    return network


def max_pool_padded_behind_only(network, patch):
    def pool(self, x):
        window, strides = (self.size,) * 2, (self.stride,) * 2
        return nnx.max_pool(x, window, strides, padding="SAME")

    patch.setattr(layers.MaxPool, "__call__", pool)
    return network


def no_normalisation(network, patch):
    patch.setattr(Network, "normalize", lambda self, image: jnp.asarray(image))
    return network


def bgr(network, patch):
    normalize = Network.normalize
    patch.setattr(Network, "normalize", lambda self, image: normalize(self, image[..., ::-1]))
    return network


def bgr_weights(network, patch):
    return changed(network, "features.0.kernel", lambda kernel: kernel[:, :, ::-1])


def dropout_left_on(network, patch):
    def drop(self, x):
        return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), 2 * x, 0)

    patch.setattr(layers.Dropout, "__call__", drop)
    return network


def biases_left_out(network, patch):
    return changed(network, "fc.bias", np.zeros_like)


def no_shortcut_convolution_norm(network, patch):
    network = rebuilt(network)
    network.layer3[0].downsample = layers.stack(list(network.layer3[0].downsample)[:1])
    return network


def explained_behind_the_pooling(network, patch):
    patch.setattr(Network, "resolve", lambda self, layer=None: layer or "features.5")
    return network


def alpha_by_sum(network, patch):
    original = cam.Cam.logits_and_map

    def summed(self, head, activations, *explained, **options):
        logits, heat = original(self, head, activations, *explained, **options)
        return logits, heat * activations.shape[0] * activations.shape[1]

    patch.setattr(cam.Cam, "logits_and_map", summed)
    return network


def no_relu_on_the_map(network, patch):
    patch.setattr(cam.Cam, "logits_and_map", without_relu)
    return network


def without_relu(self, head, activations, label, **score):
    gradient, logits = jax.grad(lambda a: (head(a)[label], head(a)), has_aux=True)(activations)
    return logits, activations @ gradient.mean((0, 1))


STAGE_FAULTS = {
    same_padding: ("resnet", "conv1"),
    bn_epsilon: ("resnet", "bn1"),
    no_relu_in_the_classifier: ("vgg", "classifier.1"),
    hwc_flatten: ("vgg", "classifier.0"),
    transposed_linear: ("vgg", "classifier.3"),
    swapped_groups: ("resnet", "layer1.0"),
    stride_on_the_first_1x1: ("resnet", "layer2.0"),
    bins_without_overlap: ("vgg", "avgpool"),
    max_pool_padded_behind_only: ("resnet", "maxpool"),
    no_normalisation: ("vgg", "normalize"),
    bgr: ("vgg", "normalize"),
    bgr_weights: ("vgg", "features.0"),
    dropout_left_on: ("vgg", "classifier.2"),
    biases_left_out: ("resnet", "fc"),
    no_shortcut_convolution_norm: ("resnet", "layer3.0"),
    explained_behind_the_pooling: ("vgg", "alpha"),
    alpha_by_sum: ("vgg", "map"),
    no_relu_on_the_map: ("vgg", "map"),
}


@pytest.fixture
def fresh(monkeypatch):
    """Programs of the test's own: none from before hides a fault, and none outlives its test."""

    def anew(function):
        return jax.jit(lambda *arguments: function(*arguments))

    for name in ("_look", "losses_of"):
        monkeypatch.setattr(comparison, name, anew(getattr(comparison, name).__wrapped__))
    engine._one_step.cache_clear()
    yield
    engine._one_step.cache_clear()


@pytest.mark.parametrize("fault", STAGE_FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_network_is_named(fault, tiny, tiny_resnet, monkeypatch, fresh):
    kind, stage = STAGE_FAULTS[fault]
    network = {"vgg": tiny, "resnet": tiny_resnet}[kind]
    state_dict = to_torch(network)
    monkeypatch.setattr(comparison, "LOSSES_ON", 0)
    rows = compare(fault(network, monkeypatch), state_dict, pictures(side=SIDE - 4))
    found = first_difference(rows)
    assert found is not None
    assert found.quantity == stage


def label_for_target(patch):
    evaluate = step.evaluate

    def wrong(network, tile, problem, attack, forward=None):
        problem = problem._replace(target=problem.label)
        return evaluate(network, tile, problem, attack, forward)

    patch.setattr(step, "evaluate", wrong)


def constant_heat(patch):
    original = cam.Cam.logits_and_map

    def cut(self, head, activations, label, **score):
        logits, heat = original(self, head, activations, label, **score)
        return logits, lax.stop_gradient(heat)

    patch.setattr(cam.Cam, "logits_and_map", cut)


def sum_of_the_covered_heat(patch):
    def hide(evidence):
        return jnp.sum(evidence.heat * evidence.coverage)

    patch.setitem(comparison.OBJECTIVES, "hide", hide)


def patch_at_the_left(patch):
    def coverage(cells, image_size, corner, shape, ratio):
        return explained(cells, image_size, jnp.zeros_like(corner), shape, ratio)

    explained = step.coverage
    patch.setattr(step, "coverage", coverage)


def nesterov(patch):
    patch.setitem(settings.OPTIMIZERS, "momentum", partial(optax.sgd, momentum=0.9, nesterov=True))


def ratio_forgotten(patch):
    patch.setattr(step, "blend", lambda tile, noise, ratio: jnp.clip(noise, 0, 1))


ATTACK_FAULTS = {
    label_for_target: "cross-entropy",
    constant_heat: "hide: gradient",
    sum_of_the_covered_heat: "hide: loss of the map",
    patch_at_the_left: "hide: loss of the map",
    nesterov: "patch after 2 momentum steps",
    ratio_forgotten: "patch after 2 sign steps",
}


@pytest.mark.parametrize("fault", ATTACK_FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_attack_is_named(fault, tiny, monkeypatch, fresh):
    monkeypatch.setattr(comparison, "LOSSES_ON", 1)
    fault(monkeypatch)
    steps = 2 if "steps" in ATTACK_FAULTS[fault] else 0
    rows = compare(tiny, to_torch(tiny), pictures(1, 28), steps=steps)
    assert first_difference(rows).quantity == ATTACK_FAULTS[fault]


# ---- gradients against finite differences --------------------------------------------------------


@pytest.mark.parametrize("objective", comparison.OBJECTIVES)
def test_gradients_through_trunk_head_and_loss(tiny, x64, objective):
    network, attack = double(tiny), Attack(objective=objective, balance=False)
    generator = np.random.default_rng(2)
    problem = Problem(
        jnp.asarray(generator.random((28, 28, 3))),
        jnp.asarray(0),
        jnp.asarray(1),
        jnp.asarray(1.0),
        jnp.asarray([3, 9]),
        jax.random.key(0),
        jnp.zeros((1, 1)),
        jnp.zeros((1, 1)),
    )
    tile = jnp.asarray(generator.random((8, 8, 3)))
    loss = jax.jit(lambda tile: evaluate(network, tile, problem, attack)[0])
    assert float(jnp.abs(jax.grad(loss)(tile)).max()) > 1e-4
    check_grads(loss, (tile,), order=1, modes=["rev"], eps=1e-6, rtol=1e-6, atol=1e-8)


def test_gradients_of_trunk_and_head(tiny, x64):
    trunk, head = double(tiny).split()
    image = jnp.asarray(np.random.default_rng(2).random((28, 28, 3)))
    check_grads(jax.jit(trunk), (image,), order=1, modes=["rev"], eps=1e-6, rtol=1e-6, atol=1e-8)
    shape = trunk(image).shape  # without the ties that a ReLU leaves
    values = jnp.asarray(np.random.default_rng(3).random(shape))
    check_grads(jax.jit(head), (values,), order=1, modes=["rev"], eps=1e-6, rtol=1e-6, atol=1e-8)


# ---- the verb ------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, picture in enumerate(pictures(2, 224)):
        images.write_png(folder / f"photo{i}.png", picture)
    return folder


def refuse(capsys, *arguments):
    assert cli.main(["verify", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    return line


def test_verb_prints_json(photos, capsys):
    options = ["--weights", "random", "--images", str(photos), "--steps", "0", "--json"]
    assert cli.main(["verify", "mini_vgg", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["first_difference"] is None
    fields = {"network", "quantity", "max_abs", "relative", "tolerance", "passed"}
    assert all(set(row) == fields for row in found["rows"])
    assert {row["network"] for row in found["rows"]} == {"mini_vgg"}


def test_verb_names_the_first_difference(photos, capsys, monkeypatch, fresh):
    monkeypatch.setattr(comparison, "LOSSES_ON", 0)
    no_normalisation(None, monkeypatch)
    options = ["--weights", "random", "--images", str(photos), "--steps", "0"]
    assert cli.main(["verify", "mini_vgg", *options]) == 1
    out, err = capsys.readouterr()
    assert "mini_vgg parts from PyTorch at normalize: relative error" in err
    assert " NO" in out


def test_many_images_are_said_and_can_be_limited(photos, capsys, monkeypatch):
    from convert import verify

    taken = []
    monkeypatch.setattr(verify, "compare", lambda *given: taken.append(len(given[2])) or [])
    monkeypatch.setattr(verify, "MANY", 1)
    options = ["mini_vgg", "--weights", "random", "--images", str(photos)]
    assert cli.main(["verify", *options]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("2 images take some ") and line.endswith("--limit N takes the first N")
    assert cli.main(["verify", *options, "--limit", "1"]) == 0
    assert capsys.readouterr().err == "" and taken == [2, 1]


def test_all_is_eight_networks(monkeypatch, tmp_path, capsys):
    from convert import verify

    assert verify.names_of(["all", "mini_vgg"], "random") == [*verify.PAPER, *MINIS]
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path))
    line = refuse(capsys, "all")
    assert "not converted yet: vgg19, vgg19_bn, wide_resnet101_2, resnext101_32x8d; run" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name networks (or all), or a finished run with --run DIR"),
        (("mini_vgg", "--run", "nowhere"), "name networks"),
        (("vgg20",), "there is no network 'vgg20'; choose one of vgg11"),
        (("mini_vgg", "--weights", "random", "--precision", "float8"), "no precision 'float8'"),
        (("mini_vgg", "--weights", "random", "--steps", "-1"), "steps is -1"),
        (("mini_vgg", "--weights", "V9"), "mini_vgg has no weights 'V9'"),
        (("mini_vgg", "--weights", "random", "--images", "nowhere"), "nowhere"),
        (("mini_vgg", "--limit", "0", "--images", "x"), "--limit is 0; it must be at least 1"),
        (("mini_vgg", "--limit", "5"), "--limit says how many of --images to take"),
        (("--run", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_verb_says_what_is_wrong(arguments, message, capsys):
    assert message in refuse(capsys, *arguments)


def test_weights_of_another_network_are_listed(tmp_path, capsys):
    torch.save(twin("mini_vgg_bn").state_dict(), tmp_path / "other.pth")
    line = refuse(capsys, "mini_vgg", "--weights", tmp_path / "other.pth")
    assert "these are not the weights of mini_vgg; missing: features.3.bias" in line


def test_verb_without_torch_names_the_extra():
    program = (
        "import sys; sys.modules['torch'] = None; from gcpatch import cli; "
        "sys.exit(cli.main(['verify', 'mini_vgg', '--weights', 'random']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "gcpatch[convert]" in line


# ---- a finished run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "photos").mkdir()
    for i, picture in enumerate(pictures(2, 224)):
        images.write_png(folder / "photos" / f"photo{i}.png", picture)
    options = ["--model", "mini_vgg", "--weights", "random", "--steps", "3", "--seed", "5"]
    assert cli.main(["attack", str(folder / "photos"), *options, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_pytorch_agrees_with_a_run(finished, capsys):
    capsys.readouterr()
    assert cli.main(["verify", "--run", str(finished), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["images"] == 2
    assert found["differing"] == []
    assert len(found["rows"]) == 2


def test_an_image_that_pytorch_sees_otherwise_is_named(finished, capsys):
    identity = id_of(finished.parent / "photos" / "photo1.png")
    path = finished / "images" / identity / "adversarial.png"
    before = path.read_bytes()
    images.write_png(path, np.full((224, 224, 3), 255, np.uint8))
    try:
        assert cli.main(["verify", "--run", str(finished)]) == 1
    finally:
        path.write_bytes(before)
    out, err = capsys.readouterr()
    assert "PyTorch agrees on 1 of 2 images" in out
    assert f"PyTorch differs on {identity}" in err


@pytest.mark.parametrize(("error", "status"), [(0.0, 0), (0.1, 1)])
def test_the_energy_of_an_untargeted_run_is_that_of_the_class_seen(
    finished, capsys, tmp_path, error, status
):
    network, cells = random("mini_vgg", 5), []
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes())
    (tmp_path / "images").symlink_to(finished / "images")
    for line in (finished / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        png = images.read_png(finished / "images" / record["id"] / "adversarial.png")
        heat = np.asarray(cam.grad_cam(network, np.float32(png) / 255, record["png"]["id"]))
        covered = np.asarray(coverage(heat.shape, (224, 224), (0, 160), (64, 64)))
        energy = metrics.energy(heat, covered) + error
        cells.append(record | {"target": {"mode": "untargeted"}, "energy_adversarial": energy})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in cells))
    assert cli.main(["verify", "--run", str(tmp_path)]) == status
    assert f"agrees on {2 * (not status)} of 2" in capsys.readouterr().out


@pytest.mark.parametrize("gone", ["weights_digest", "patch", "png", "model", "energy_adversarial"])
def test_a_run_that_lacks_something_is_one_line(finished, capsys, tmp_path, gone):
    settings = json.loads((finished / "run.json").read_text())
    settings["settings"].pop(gone, None)
    (tmp_path / "run.json").write_text(json.dumps(settings))
    records = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in record.items() if key != gone} for record in records]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in kept))
    (tmp_path / "images").symlink_to(finished / "images")
    line = refuse(capsys, "--run", tmp_path)
    assert "lacks what an attack records" in line or "does not hold a run's settings" in line


def test_a_run_of_other_weights_is_refused(finished, capsys, tmp_path):
    settings = json.loads((finished / "run.json").read_text())
    settings["settings"]["seed"] = 6
    (tmp_path / "run.json").write_text(json.dumps(settings))
    (tmp_path / "results.jsonl").write_bytes((finished / "results.jsonl").read_bytes())
    assert "weights of mini_vgg are not at hand" in refuse(capsys, "--run", tmp_path)
