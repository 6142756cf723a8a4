"""The options that part the images among processes, and the part that they give this one."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from gcpatch.errors import UserError


@dataclass(frozen=True)
class Part:
    """The images of one process: every `count`-th, from `index` (from 1) on, into `folder`."""

    index: int
    count: int
    folder: Path


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Adds `--shard` and `--distributed`."""
    parser.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help="take only the I-th of N equal parts of the images",
    )
    parser.add_argument(
        "--distributed",
        nargs="?",
        const="",
        metavar="HOST:PORT,N,I",
        help="be one process of N under jax.distributed, which finds Slurm, MPI, Kubernetes and TPU clusters by itself; each takes its part of the images into DIR/part-I-of-N",
    )


def part_of(options: argparse.Namespace) -> Part:
    """The part of this process, which joins the others if there are any.

    Raises:
        UserError: there is no such part, or the others cannot be joined.
    """
    import jax

    if options.distributed is None:
        return Part(*_shard(options.shard), options.out)
    if options.shard != "1/1":
        raise UserError("--distributed gives each process its part; leave out --shard")
    _join(options.distributed)
    index, count = jax.process_index() + 1, jax.process_count()
    return Part(index, count, options.out / f"part-{index}-of-{count}")


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"the shard {text!r} is not I/N with 1 <= I <= N")
    return int(index), int(count)


def _join(text: str) -> None:
    """Makes this process one of several, in the cluster that JAX finds or at an address."""
    import jax

    address, _, numbers = text.partition(",")
    count, _, index = numbers.partition(",")
    numbered = count.isdecimal() and index.isdecimal() and int(index) < int(count)
    if text and not (address and numbered):
        raise UserError(f"--distributed {text!r} is not HOST:PORT,N,I, such as 10.0.0.1:1234,8,0")
    try:
        if text:
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"jax.distributed cannot start ({reason}); give it --distributed HOST:PORT,N,I"
        ) from None
