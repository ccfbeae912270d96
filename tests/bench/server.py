#!/usr/bin/env python3
"""Processor time per request, of the registry beside nginx: server.py SERVES NGINX_PID NGINX_ADDRESS SECONDS ROUNDS.

SERVES is the file that `fleet serve` printed. Both answer the same paths with the same bytes; each ratio is
the median of those taken round by round, so that what disturbs the machine disturbs both.
"""
import http.client
import json
import os
import re
import statistics
import subprocess
import sys

TICKS = os.sysconf("SC_CLK_TCK")


def processor(pid):
    """Seconds that a process and its children have taken."""
    taken = 0.0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as children:
            taken += sum(processor(child) for child in children.read().split())
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return taken + (int(fields[11]) + int(fields[12])) / TICKS


def asked(address, path, tag=None):
    """One answer: its status, entity tag and body."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", path, headers={"If-None-Match": tag} if tag else {})
    answer = connection.getresponse()
    return answer.status, answer.getheader("ETag"), answer.read()


def load(address, path, tag, connections, seconds):
    """Requests that were answered within so many seconds, as fast as they are."""
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    if tag:
        command += ["-H", f"If-None-Match: {tag}"]
    said = subprocess.run(command + [f"http://{address}{path}"], capture_output=True, text=True, check=True).stdout
    errors = re.search(r"Non-2xx or 3xx.*|Socket errors.*", said)
    if errors:
        sys.exit(f"{address}{path}: {errors.group()}")
    return int(re.search(r"(\d+) requests in", said).group(1))


def bytes_of_poll(address, path, tag):
    """Bytes of a poll with nothing new, as an agent's library sends it, both ways."""
    import socket
    request = f"GET {path} HTTP/1.1\r\nIf-None-Match: {tag}\r\nAccept: */*\r\nHost: {address}\r\n\r\n".encode()
    with socket.create_connection(address.rsplit(":", 1)) as stream:
        stream.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(4096)
    if not answer.startswith(b"HTTP/1.1 304"):
        sys.exit(f"a poll with nothing new: {answer!r}")
    return len(request) + len(answer)


def main():
    serves = json.load(open(sys.argv[1]))
    servers = {"nginx": (int(sys.argv[2]), sys.argv[3]), "registry": (serves["pid"], serves["address"])}
    seconds, rounds = int(sys.argv[4]), int(sys.argv[5])
    rows = [
        ("nothing new, 64 connections", "timestamp", True, 64, 1.3),
        ("nothing new, 1000 connections", "timestamp", True, 1000, 1.5),
        ("manifest, 64 connections", "manifest", False, 64, 1.2),
        ("closure index, 64 connections", "closure", False, 64, 1.2),
    ]
    missed = False
    print(f"{'':<32}{'bytes':>7}{'nginx us':>18}{'registry us':>18}{'rate':>7}{'CPU':>7}{'goal':>7}")
    for what, key, conditional, connections, goal in rows:
        path, tags = serves[key], {}
        bodies = set()
        for name, (_, address) in servers.items():
            status, tag, body = asked(address, path)
            if status != 200:
                sys.exit(f"{name}: {path}: {status}")
            tags[name] = tag if conditional else None
            bodies.add(body)
            if conditional and asked(address, path, tag)[0] != 304:
                sys.exit(f"{name}: {path}: no 304")
        if len(bodies) != 1:
            sys.exit(f"{path}: the two serve different bytes")
        spent, rates = {name: [] for name in servers}, {name: [] for name in servers}
        for turn in range(rounds):
            for name in sorted(servers, reverse=turn % 2 == 1):
                pid, address = servers[name]
                before = processor(pid)
                requests = load(address, path, tags[name], connections, seconds)
                spent[name].append((processor(pid) - before) / requests * 1e6)
                rates[name].append(requests)
        ratio = statistics.median(b / a for a, b in zip(spent["nginx"], spent["registry"]))
        rate = statistics.median(b / a for a, b in zip(rates["nginx"], rates["registry"]))
        told = ["/".join(f"{it:.1f}" for it in sorted(spent[name])[:: max(rounds // 2, 1)]) for name in servers]
        size = 0 if conditional else len(bodies.pop())
        missed |= ratio > goal
        print(f"{what:<32}{size:>7}{told[0]:>18}{told[1]:>18}{rate:>7.2f}{ratio:>7.2f}{goal:>7.2f}", flush=True)
    _, address = servers["registry"]
    polled = bytes_of_poll(address, serves["timestamp"], asked(address, serves["timestamp"])[1])
    print(f"a poll with nothing new: {polled} bytes, both ways (goal 300)")
    sys.exit(1 if missed or polled > 300 else 0)


main()
