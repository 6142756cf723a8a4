"""What a user says of a network, and files of classes' names."""

import json

import pytest

from convert import ConvertError
from convert.settings import Settings, check_alias, read_categories
from gcpatch.errors import UserError
from gcpatch.networks import Preprocessing, random


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nred fox\n",
        "\ufeffcat\r\ndog\r\n red fox \r\n\r\n",
        json.dumps(["cat", "dog", "red fox"]),
        json.dumps({"0": "cat", "2": "red fox", "1": "dog"}),
        json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "red fox"]}),
        json.dumps({"red fox": 2, "cat": 0, "dog": 1}),
    ],
)
def test_names_of_classes(text, tmp_path):
    (tmp_path / "it").write_bytes(text.encode())
    assert read_categories(tmp_path / "it") == ("cat", "dog", "red fox")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"cat\n\ndog\n",
        b'["cat", 3]',
        b'{"0": "cat", "2": "dog"}',
        b"[1",
        b'{"a": {}}',
    ],
)
def test_what_names_no_classes(content, tmp_path):
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(ConvertError, match="does not name classes: it must hold") as caught:
        read_categories(tmp_path / "it")
    assert "\n" not in str(caught.value)


def test_a_file_of_classes_that_cannot_be_read(tmp_path):
    with pytest.raises(ConvertError, match="cannot be read: No such file"):
        read_categories(tmp_path / "gone")
    (tmp_path / "it").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConvertError, match="cannot be read: it is not text in UTF-8"):
        read_categories(tmp_path / "it")


def test_a_size_alone_keeps_the_proportion():
    assert Settings(size=448).preprocessing(Preprocessing()).resize == 512
    assert Settings(size=448).preprocessing(Preprocessing(resize=232)).resize == 464
    assert Settings(size=192, resize=200).preprocessing(Preprocessing()).resize == 200
    assert Settings(resize=232).preprocessing(Preprocessing()) == Preprocessing(resize=232)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(mean=(123.7, 116.3, 103.5)), "mean is .*123.7.* from 0 to 1"),
        (Settings(std=(0.5, 0.0, 0.5)), "std is .* over 0"),
        (Settings(resize=200), "size is 224 and resize 200"),
        (Settings(interpolation="nearest"), "no interpolation 'nearest'; choose one of bilinear"),
        (Settings(categories=("a", "b")), "mini_resnext has 10 classes, and there are 2 names"),
        (Settings(layer="layer9"), "has no layer 'layer9'; it has conv1, bn1, relu"),
        (Settings(layer="fc"), r"the layer fc gives no map .* shape \[10\]; choose a layer before"),
        (Settings(name="vgg16"), "the name vgg16 is another network's than mini_resnext"),
    ],
)
def test_what_does_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        settings.apply(random("mini_resnext"))


def test_images_that_are_too_small():
    with pytest.raises(UserError, match="mini_vgg takes no images of 16 pixels"):
        Settings(size=16).apply(random("mini_vgg"))


def test_all_of_it():
    network = random("mini_resnext")
    said = Settings(
        (0.5,) * 3, (0.5,) * 3, 64, 80, "bicubic", tuple("abcdefghij"), "layer3", "mine"
    )
    said.apply(network)
    assert network.preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3, 64, 80, "bicubic")
    assert network.categories == tuple("abcdefghij")
    assert (network.target_layer, network.name) == ("layer3.0", "mine")
    assert network.architecture == "mini_resnext"
    assert said.assumed(network.preprocessing) == ()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc", ".x", "all", "random", "ä", "x" * 101]
)
def test_names_that_are_not_allowed(name):
    with pytest.raises(UserError, match="is not allowed"):
        check_alias(name)
    check_alias("my-net_2.0")
