"""Try to break the harness, for a given time.

    make soak MINUTES=10
    python -m benchmarks.soak kills --minutes 30 --seed 7

Prints tries and failures of each campaign; exit code 1 if anything broke. A failure is printed with
the command that makes its step again. With `--out`, the numbers go to a JSON file as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.soak import campaign, damage, fuzz, hostile, kills
from benchmarks.soak.campaign import Attempt, Bounds
from benchmarks.soak.ground import Ground, busy

CAMPAIGNS: dict[str, Attempt] = {
    "kills": kills.attempt,
    "damage": damage.attempt,
    "fuzz": fuzz.attempt,
    "hostile": hostile.attempt,
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("campaigns", nargs="*", metavar="CAMPAIGN", help=f"{', '.join(CAMPAIGNS)} (default: all)")
    add("--minutes", type=float, default=10, help="time for all of them together (default: 10)")
    add("--tries", type=int, help="tries of each campaign after which it ends, if time remains")
    add("--seed", type=int, default=0, help="of all random draws (default: 0)")
    add("--only", type=int, metavar="STEP", help="make one step only, of each campaign named")
    add("--folder", type=Path, help="where to work; what broke stays there (default: a new one)")
    add("--out", type=Path, metavar="FILE", help="write the numbers there, as JSON")
    chosen = parser.parse_args()
    unknown = set(chosen.campaigns) - CAMPAIGNS.keys()
    if unknown:
        parser.error(f"unknown campaign {min(unknown)!r}; there are {', '.join(CAMPAIGNS)}")
    return chosen


def main() -> int:
    chosen = options()
    names = chosen.campaigns or list(CAMPAIGNS)
    if chosen.folder is None:
        folder = Path(tempfile.mkdtemp(prefix="doorbench-soak-"))
    else:
        folder = chosen.folder.absolute()
        if folder.exists():
            sys.exit(f"{folder}: is there already; name a new folder")
        folder.mkdir(parents=True)
    ground = Ground(folder)
    share = 60 * chosen.minutes / len(names)
    tallies = []
    for name in names:
        bounds = Bounds(share, chosen.tries, chosen.only)
        tallies.append(campaign.carry_out(name, CAMPAIGNS[name], ground, chosen.seed, bounds))
        print(f"{name} is through; {busy()}", file=sys.stderr, flush=True)
        if tallies[-1].interrupted:
            break
    print(campaign.table(tallies))
    if chosen.out is not None:
        numbers = {tally.name: tally.to_json() for tally in tallies}
        chosen.out.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    broke = any(tally.failures for tally in tallies)
    if not broke:
        # What broke is looked at afterwards; else nothing is worth keeping.
        ground.remove()
    return int(broke)


if __name__ == "__main__":
    sys.exit(main())
