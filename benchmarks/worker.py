"""The benchmark's client: a process on a host of its own that generates what it is told on standard input.

One JSON object per line: a job {"prompt", ...options of a generation} in, its result out; {"connect": {...}} first.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from client import SwarmModel


def main() -> None:
    """Serve jobs until standard input ends."""
    connection = json.loads(sys.stdin.readline())
    with SwarmModel.connect(**connection) as model:
        print(json.dumps({"event": "ready"}), flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            result = model.generate(job.pop("prompt"), **job)
            fields = asdict(result)
            fields["chain"] = [str(span) for _, span in result.chain]
            print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
