"""Many users of one server at once: how long prompts take, and whether everything stays apart.

    python benchmarks/serve_load.py --json benchmarks/results/serve_load.json

A server (`medsam2-ft serve`, a random miniature SAM2 at 256) runs in a process of its own. Each
client runs scripted sessions: upload, edit by hand, prompts, a propagation, undo, redo, masks. Held
against: every request is answered by 200, 201, 202, 204 or a 503 with Retry-After; 95 of 100
prompts have their mask within two seconds; no session has anything of another one; and once all
sessions are released the server's memory is what it was after ten seconds of the same, when the
model was loaded and the allocators had what they keep.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from report import write_result
from serve_client import LoadUser, Measured

PROMPT_S: Final = 2.0
MEMORY_MB: Final = 80.0
"""Memory that a server may keep: what its allocator and its threads hold back."""
WARM_S: Final = 10.0
SETTLE_S: Final = 3.0


@contextmanager
def server(threads: int, max_sessions: int) -> Iterator[tuple[int, psutil.Process, float]]:
    """Yields port and process of a server, and how many seconds it took to listen."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models.yaml"
        models.write_text("- {id: tiny, file: 'random:tiny_test', image_size: 256}\n")
        command = [sys.executable, "-m", "medsam2_ft", "serve", "--port=0", "--device=cpu"]
        command += [f"--models={models}", "--model=tiny", f"--max_sessions={max_sessions}"]
        environment = {**os.environ, "TMPDIR": folder, "OMP_NUM_THREADS": str(threads)}
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)/api", process.stdout.readline())
            if found is None:
                raise SystemExit("the server does not start")
            took = time.perf_counter() - started
            yield int(found[1]), psutil.Process(process.pid), took
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def run_users(port: int, clients: int, seconds: float, first: int = 0) -> list[Measured]:
    """Lets users work at once; returns what each saw."""
    found = [Measured() for _ in range(clients)]
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=LoadUser(port, first + number, measured).run, args=(until,))
        for number, measured in enumerate(found)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def resident_mb(process: psutil.Process) -> float:
    """Memory of a process now."""
    return float(process.memory_info().rss / 1e6)


def row_of(kind: str, seconds: list[float]) -> dict[str, Any]:
    """Median, 95 of 100, and the longest."""
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"kind": kind, "count": len(seconds), "p50_s": p50, "p95_s": p95, "max_s": max(seconds)}


def measure(clients: int, seconds: float, threads: int, max_sessions: int) -> dict[str, Any]:
    """Runs the load; returns what `main` prints and writes."""
    with server(threads, max_sessions) as (port, process, start_s):
        started_mb = resident_mb(process)
        warm = run_users(port, clients, min(WARM_S, seconds), first=1000)
        time.sleep(SETTLE_S)
        before_mb = resident_mb(process)
        seen = run_users(port, clients, seconds)
        end_mb = resident_mb(process)
        time.sleep(SETTLE_S)
        after_mb = resident_mb(process)
    kinds = sorted({kind for measured in seen for kind in measured.seconds})
    rows = [row_of(k, [s for measured in seen for s in measured.seconds[k]]) for k in kinds]
    statuses: dict[str, int] = {}
    for measured in seen:
        for status, count in measured.answers.items():
            statuses[str(status)] = statuses.get(str(status), 0) + count
    problems = [problem for measured in (*warm, *seen) for problem in measured.problems]
    p95 = next((row["p95_s"] for row in rows if row["kind"] == "prompt"), float("nan"))
    if not p95 < PROMPT_S:
        problems.append(f"95 of 100 prompts took {p95:.2f} s, more than {PROMPT_S} s")
    if after_mb - before_mb > MEMORY_MB:
        problems.append(f"memory grew by {after_mb - before_mb:.0f} MB")
    memory_mb = {
        "started": started_mb, "warm": before_mb, "end": end_mb, "released": after_mb,
    }  # fmt: skip
    return {
        "clients": clients, "seconds": seconds, "server_threads": threads,
        "max_sessions": max_sessions, "sessions": sum(measured.sessions for measured in seen),
        "start_s": start_s, "memory_mb": memory_mb,
        "answers": dict(sorted(statuses.items())), "rows": rows, "problems": problems,
    }  # fmt: skip


def main() -> int:
    """Runs the load test; returns 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--max-sessions", type=int, default=6, help="fewer than clients: some wait")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.clients, options.seconds, options.threads, options.max_sessions)
    print(f"{'request':<18} {'count':>6} {'median':>8} {'95 %':>8} {'longest':>8}")
    for row in result["rows"]:
        times = " ".join(f"{row[name]:7.3f}s" for name in ("p50_s", "p95_s", "max_s"))
        print(f"{row['kind']:<18} {row['count']:>6} {times}")
    memory = ", ".join(f"{name} {mb:.0f} MB" for name, mb in result["memory_mb"].items())
    print(f"{result['sessions']} visits; answers {result['answers']}; memory: {memory}")
    for problem in result["problems"]:
        print(f"PROBLEM: {problem}")
    write_result(options.json, result)
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
