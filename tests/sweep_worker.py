"""A worker of a sweep with a fake model: it sleeps and writes a chunk's file, which holds how long that took.

Run by test_sweep_overhead.py, not a test itself.
"""

import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    for line in sys.stdin:
        begun, unit = time.monotonic(), json.loads(line)
        time.sleep(unit["generation"]["seconds"])
        file = Path(unit["run"], "rows", f"{unit['shard'][0] - 1:05d}.parquet")
        file.write_text(str(time.monotonic() - begun))
        print('{"refused": null}', flush=True)
