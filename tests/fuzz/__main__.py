"""`python -m tests.fuzz --seed 0 --minutes 6 --out figures/fuzz.csv`."""

import argparse
import os
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pandas as pd

from labbook.run import write_table
from tests.fuzz.campaign import campaign, counts
from tests.fuzz.judge import FAULTS, OUTCOMES
from tests.fuzz.kills import commands, kills


def main(args: list[str] | None = None) -> int:
    """Run, print and write the table; 1 when a case ended as it may not, or a kill was not survived."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Damage input and count what happens."
    )
    parser.add_argument("--seed", type=int, default=0, help="of mutations and moments of kills")
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="for the mutations; the kills go on beside them"
    )
    parser.add_argument("--rounds", type=int, default=2, help="kills of each of the four commands")
    parser.add_argument("--out", type=Path, help="a CSV for the table")
    asked = parser.parse_args(args)
    warnings.simplefilter("ignore")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as name, ThreadPoolExecutor(1) as beside:
        folder, rng = Path(name), np.random.default_rng(asked.seed)
        tiny = commands(folder)
        # killed runs are processes of their own: they take the second core
        later = beside.submit(lambda: list(kills(tiny, folder, rng, asked.rounds)))
        verdicts = list(campaign(asked.seed, seconds=60 * asked.minutes))
        tried = later.result()
    table = counts(verdicts)
    total = {"kind": "all", **{name: int(table[name].sum()) for name in ("cases", *OUTCOMES)}}
    table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
    survived = sum(kill.survived for kill in tried)
    table = table.assign(
        kills=len(tried), survived=survived, seed=asked.seed, seconds=round(time.monotonic() - began)
    )
    for v in verdicts:
        if v.outcome in FAULTS or v.needless:
            print(f"{v.case.kind}, {v.case.mutation}: {v.outcome}{', needlessly' * v.needless}\n{v.detail}\n")
    for kill in tried:
        if not kill.survived:
            print(f"{kill.command}, signal {kill.number} after {kill.after:.2f} s: {kill.detail}\n")
    print(table[["kind", "cases", *OUTCOMES]].to_string(index=False))
    print(f"kills survived: {survived} of {len(tried)}; seed {asked.seed}; {table['seconds'][0]} s")
    if asked.out is not None:
        write_table(asked.out, table)
        print(asked.out)
    faults = sum(v.outcome in FAULTS or v.needless for v in verdicts)
    return int(faults > 0 or survived < len(tried))


if __name__ == "__main__":
    sys.exit(main())
