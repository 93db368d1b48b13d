#!/usr/bin/python3
"""trainer TRACE INGEST RUN PROGRAM ROWS_PER_SECOND FROM SPOOL: trainer.c with the Python client."""
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "python"))

import seismo  # noqa: E402


def main() -> int:
    """Hand over the rows and tell how far it has come."""
    trace, ingest, name, program, rate, start, spool = sys.argv[1:]
    with open(trace, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][1 + int(start):]
    run = seismo.Run(name, program, ingest=ingest, spool=spool or None)
    begun, told = time.monotonic(), 0.0

    def tell(given):
        stats = run.stats
        safe = stats["acked_steps"] + stats["spooled_steps"] - (stats["steps"] - given)
        print(f"given {given} acked {stats['acked_steps']} safe {safe} "
              f"dropped {stats['dropped_steps']}", flush=True)

    for given, row in enumerate(rows, 1):
        step = row.pop("step")
        run.step(step, **{name: float(value) for name, value in row.items()})
        now = time.monotonic()
        if now - told > 0.02:
            told = now
            tell(given)
        time.sleep(max(0.0, min(0.5, begun + given / float(rate) - now)))
    tell(len(rows))
    # close() gives a daemon that was never heard of one second, and here its first answers may be
    # lost; they are asked for again after five.
    while not run.stats["acked_steps"] and time.monotonic() < begun + 600:
        time.sleep(0.02)
    print(f"closed {int(run.close(timeout=600))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
