"""python benchmarks/chat.py                           # 2 minutes of load, then a table
python benchmarks/chat.py --clients 1 --seconds 20  # the waiting times of one person alone

Eight people at once on the chat page: their waiting times, and lost or mixed-up answers.

It serves nano in a separate process. Each client uploads its picture, gets a score and asks a question, again
and again. Two clients share each picture, so their answers must be equal. The exit code is 1 if an answer is
lost or mixed up.
"""

import argparse
import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PICTURES = ("coffee_blurred.jpg", "rocket_noisy.jpg", "chelsea.jpg", "astronaut.jpg")
QUESTION = "Why is the quality low?"


class Tally:
    """Times, answers and counts of all clients."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.answers: dict[str, set[str]] = defaultdict(set)
        self.counts: dict[str, int] = dict.fromkeys(("calls", "rejected", "lost", "mixed"), 0)

    def add(self, count: str) -> None:
        with self.lock:
            self.counts[count] += 1

    def time(self, what: str, start: float) -> None:
        with self.lock:
            self.seconds[what].append(time.perf_counter() - start)


def one_round(url: str, picture: str, tally: Tally) -> None:
    """One visit by a new client: one upload, one score, one answer."""
    client = Client(url, verbose=False)
    path = EXAMPLES / picture
    start = time.perf_counter()
    tally.add("calls")
    record = client.predict(handle_file(path), "a picture", api_name="/assess")
    tally.time("first score", start)
    if record["image_sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
        tally.add("mixed")
    start = time.perf_counter()
    tally.add("calls")
    steps = iter(client.submit(handle_file(path), QUESTION, "a picture", [], api_name="/ask"))
    text = next(steps)
    tally.time("first word", start)
    for text in steps:  # noqa: B007, the last one is the whole answer
        pass
    tally.time("whole answer", start)
    with tally.lock:
        tally.answers[picture].add(text)
    client.close()


def visit(url: str, picture: str, until: float, tally: Tally) -> None:
    while time.perf_counter() < until:
        try:
            one_round(url, picture, tally)
        except AppError:  # the server is busy: the next round tries again
            tally.add("rejected")
            time.sleep(1)
        except Exception as error:
            print(f"lost: {error!r}", file=sys.stderr)
            tally.add("lost")


def serve() -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "ui", "--port", str(port)])
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, f"http://127.0.0.1:{port}/"
        if server.poll() is not None:
            break
        time.sleep(0.2)
    raise SystemExit("The page did not start.")


def report(clients: int, tally: Tally, before: float, after: float) -> None:
    counts = tally.counts
    counts["mixed"] += sum(len(texts) - 1 for texts in tally.answers.values())
    print(f"{clients} clients: " + ", ".join(f"{number} {what}" for what, number in counts.items()))
    for what, values in tally.seconds.items():
        ordered = sorted(values)
        middle, late = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
        print(f"{what:<13} median {middle:5.2f} s, 95 % within {late:5.2f} s, of {len(ordered)}")
    print(f"server memory {before:.0f} MB before, {after:.0f} MB after")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--seconds", type=float, default=120.0, help="time in which new rounds start")
    parser.add_argument("--clients", type=int, default=8, help="people at once")
    options = parser.parse_args()
    server, url = serve()
    try:
        memory = psutil.Process(server.pid).memory_info
        tally = Tally()
        one_round(url, PICTURES[0], Tally())  # the first round is slower
        before = memory().rss / 1e6
        until = time.perf_counter() + options.seconds
        people = [
            threading.Thread(target=visit, args=(url, PICTURES[i % len(PICTURES)], until, tally))
            for i in range(options.clients)
        ]
        for person in people:
            person.start()
        for person in people:
            person.join()
        report(options.clients, tally, before, memory().rss / 1e6)
    finally:
        server.terminate()
        server.wait()
    return 1 if tally.counts["lost"] or tally.counts["mixed"] else 0


if __name__ == "__main__":
    sys.exit(main())
