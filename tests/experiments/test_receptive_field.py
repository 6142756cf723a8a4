from experiments import receptive_field
from tests import tinies


def test_the_receptive_field_is_that_of_the_convolutions():
    # 3 x 3, a pool of 2 x 2, 3 x 3: three cells of two pixels, and one pixel on either side.
    assert receptive_field.receptive_field(tinies.vgg(), "features.4") == 8
    assert receptive_field.receptive_field(tinies.vgg(), "features.1") == 3


def record(identity, ring):
    return {
        "id": identity,
        "error": None,
        "skipped": None,
        "label": None,
        "clean": {"id": 0},
        "fooled_class": True,
        "fooled_both": True,
        "fooled_explanation_ring": ring,
        "map_empty": ring,
    }


def test_a_line_counts_what_is_hidden_with_the_ring_and_is_drawn(tmp_path):
    network = tinies.vgg()
    found = receptive_field.line(network, "features.4", 1, [record("a", True), record("b", False)])
    assert found["images"] == 2 and found["both"] == 2
    assert found["with_ring"] == 1 and found["empty"] == 1
    assert found["cell"] == 2 and found["layer"] == "features.4"
    rows = [{key: str(value) for key, value in found.items()}]
    receptive_field.draw(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
