#!/usr/bin/env python3
"""What durable reports cost SQLite alone: ingest.py FOLDER SECONDS.

One transaction of 100 reports after the other, each on the disk before the next (synchronous=FULL).
A report is what a registry keeps of it at least: the host's newest row, and a line of its history.
"""
import json
import os
import sqlite3
import sys
import time

BATCH = 100
HOSTS = 10_000

folder, seconds = sys.argv[1], float(sys.argv[2])
os.makedirs(folder, exist_ok=True)
db = sqlite3.connect(os.path.join(folder, "bare.sqlite"), isolation_level=None)
db.executescript("""
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE newest (host TEXT PRIMARY KEY, at INTEGER, generation INTEGER, state TEXT, body TEXT) WITHOUT ROWID;
    CREATE TABLE history (id INTEGER PRIMARY KEY, host TEXT, at INTEGER, generation INTEGER, state TEXT);
    CREATE INDEX history_of_host ON history (host, at);
""")
body = json.dumps({
    "state": "converged", "generation": 12, "root": "/nix/store/" + "0" * 32 + "-system",
    "units": ["u" * 40] * 10,
})
newest = """INSERT INTO newest VALUES (?, ?, 12, 'converged', ?)
    ON CONFLICT (host) DO UPDATE SET at = excluded.at, generation = excluded.generation,
    state = excluded.state, body = excluded.body"""
history = "INSERT INTO history (host, at, generation, state) VALUES (?, ?, 12, 'converged')"
reports, started = 0, time.monotonic()
while time.monotonic() - started < seconds:
    db.execute("BEGIN IMMEDIATE")
    for _ in range(BATCH):
        # A prime, so that hosts that report together are not neighbours.
        host = f"host-{reports * 7919 % HOSTS:05}"
        db.execute(newest, (host, reports, body))
        db.execute(history, (host, reports))
        reports += 1
    db.execute("COMMIT")
print(round(reports / (time.monotonic() - started)))
