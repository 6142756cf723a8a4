"""Runs every hostile input in a process of its own, and prints what it answered and what it took.

    python -m experiments.hostile [--out FILE.md] [WORDS...]

WORDS choose the rows whose kind holds one of them. Seconds are those of the command, without
imports and compiling; memory is the most that the process had. Exits with 1 where an answer is not
the right one, takes more than 10 s or 2 GB, shows a traceback, or leaves anything outside of its
`--out`. A row that needs another user or a small disk takes `unshare` and user namespaces (Linux).
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.hostile.measure import MOST_BYTES, MOST_SECONDS, Answer, faults, measure
from experiments.hostile.rows import Row
from experiments.hostile.table import ROWS

HEAD = "| input | exit | answer | seconds | MB |\n|---|---|---|---|---|"


def line(row: Row, answer: Answer) -> str:
    """A row of the table."""
    said = next((s for s in answer.text.splitlines() if row.words in s), row.words)
    said = re.sub(r"/\S*/box/", "", said).replace("|", "\\|")
    said = said if len(said) < 120 else f"{said[:117]}..."
    cells = (
        row.kind,
        str(answer.status),
        said,
        f"{answer.seconds:.1f}",
        f"{answer.bytes / 1e6:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def answers(rows: Sequence[Row]) -> Iterator[tuple[Row, Answer]]:
    """Each row's answer; where it takes too long, that of a second time, when all is compiled."""
    with tempfile.TemporaryDirectory() as programs:
        for row in rows:
            for _ in range(2):
                with tempfile.TemporaryDirectory() as folder:
                    answer = measure(row, Path(folder), Path(programs))
                if answer.seconds <= MOST_SECONDS:
                    break
            yield row, answer


def main() -> int:
    """Prints the table, and what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table there too")
    parser.add_argument("words", nargs="*", metavar="WORDS", help="only rows of such kinds")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.words or any(w in row.kind for w in options.words)]
    lines, wrong, seconds, size = [HEAD], 0, 0.0, 0
    print(HEAD)
    for row, answer in answers(rows):
        lines.append(line(row, answer))
        print(lines[-1], flush=True)
        seconds, size = max(seconds, answer.seconds), max(size, answer.bytes)
        for fault in faults(row, answer):
            wrong += 1
            print(f"WRONG: {row.kind}: {fault}\n{answer.text[-2000:]}", file=sys.stderr, flush=True)
    lines.append(
        f"\n{len(rows)} inputs, {wrong} faults; the slowest takes {seconds:.1f} s (of at most "
        f"{MOST_SECONDS}), the largest {size / 1e6:,.0f} MB (of {MOST_BYTES / 1e6:,.0f})."
    )
    print(lines[-1])
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
