"""Numbers out of range, and strange surroundings."""

from pathlib import Path

from experiments.hostile.rows import ABSURD, BEFORE, DONE, FULL, STRANGER, Row, both, file, good
from experiments.hostile.runs import run

NUMBERS = {
    "--seed -1": "seed is -1",
    f"--seed {ABSURD}": "seed is 1",
    "--batch 0": "the batch is 0",
    "--batch -3": "the batch is -3",
    "--checkpoint-every nan": "checkpoint_every is nan",
    "--checkpoint-every -1": "checkpoint_every is -1",
    "--steps 0": "steps is 0",
    f"--steps {ABSURD}": "steps is 1",
    "--learning-rate nan": "learning_rate is nan",
    "--learning-rate inf": "learning_rate is inf",
    "--ce-weight nan": "ce_weight is nan",
    "--ce-weight inf": "ce_weight is inf",
    "--ratio nan": "ratio is nan",
    f"--size {ABSURD}": "size is 1",
    f"--position {ABSURD},0": "does not lie inside an image",
    "--frame -1": "width is -1",
    "--linf 256": "levels is 256",
    "--shard 0/0": "the shard '0/0' is not I/N",
    "--distributed here:1,1,5": "is not HOST:PORT,N,I",
}
OTHERS = {
    "transfer run --models mini_vgg --images 0": "--images is 0",
    "transfer run --models mini_vgg --defences jpeg-0": "jpeg-0",
    "transfer run --models mini_vgg --defences blur-nan": "blur-nan",
    "bench --repeats 0": "--repeats is 0",
    "bench --sizes 0": "--sizes is '0'",
    "verify mini_vgg --steps -1": "steps is -1",
    "verify mini_vgg --limit 0": "--limit is 0",
    f"explain good.png --model mini_vgg --label {ABSURD} --out out": "there is no class",
}
OPTIONS = [
    *(Row(f"option: {o[:40]}", good, BEFORE + o, 2, words) for o, words in NUMBERS.items()),
    *(Row(f"command: {c[:60]}", both(good, run({})), c, 2, words) for c, words in OTHERS.items()),
]


def _open_cache(box: Path) -> None:
    (box / "home" / "programs").mkdir(parents=True)
    (box / "home" / "programs").chmod(0o777)


NOT_ASCII = "sch\u00f6n \u6f22\u5b57.png"
SURROUNDINGS = [
    Row(
        "a terminal of ASCII",
        file(NOT_ASCII, b"no"),
        f"attack '{NOT_ASCII}' --model mini_vgg --steps 1 --out out",
        1,
        "sch\\xf6n",
        environment={"PYTHONIOENCODING": "ascii"},
    ),
    Row(
        "no home, and a user without a name",
        good,
        BEFORE,
        2,
        "set GCPATCH_HOME",
        environment={"HOME": None, "GCPATCH_HOME": None, "XDG_CACHE_HOME": None},
        under=STRANGER,
    ),
    Row(
        "a cache that others may write to",
        both(good, _open_cache),
        BEFORE,
        0,
        DONE,
        lambda box: not [*(box / "home" / "programs").iterdir()],
        environment={"GCPATCH_HOME": "{box}/home", "JAX_COMPILATION_CACHE_DIR": None},
    ),
    Row("a full disk", good, BEFORE, 1, "No space left on device", environment={}, under=FULL),
    Row(
        "a folder that nobody may write to",
        both(good, lambda box: (box / "out").mkdir(0o555)),
        BEFORE,
        2,
        "cannot write to the folder out",
        environment={},
        under=STRANGER,
    ),
]
