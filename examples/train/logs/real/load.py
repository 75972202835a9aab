"""Put a server on this machine under a small, bounded load, so that it writes a log.

    python examples/train/logs/real/load.py http 8080 2000

Kinds: http, dns, redis, memcached. Every request goes to the loopback address, and
their number is given. The same call sends the same requests.
"""

import argparse
import http.client
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

WORDS = (
    "index",
    "users",
    "orders",
    "img",
    "api",
    "v1",
    "login",
    "search",
    "cart",
    "static",
    "a",
    "b",
)
AGENTS = (
    "curl/8.5.0",
    "Mozilla/5.0 (X11; Linux x86_64)",
    "python-requests/2.31",
    "Go-http-client/1.1",
)


def waited(port: int) -> None:
    """Wait until something listens on a port, for ten seconds at most."""
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"load: nothing listens on port {port}")


def web(port: int, count: int, source: random.Random) -> None:
    """Ask for pages, some of which exist."""
    waited(port)
    pages = ["/", *(f"/page{n}.html" for n in range(40))]
    for _ in range(count):
        path = source.choice(pages)
        if source.random() < 0.3:
            path = "/" + "/".join(source.choices(WORDS, k=source.randint(1, 4)))
        if source.random() < 0.2:
            path += f"?{source.choice(WORDS)}={source.randint(1, 9999)}"
        method = source.choices(("GET", "HEAD", "POST", "PUT"), (90, 5, 4, 1))[0]
        body = "x" * source.randint(1, 400) if method in ("POST", "PUT") else None
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            client.request(method, path, body, {"User-Agent": source.choice(AGENTS)})
            client.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass  # a refused request makes a line of the log too
        client.close()


def names(port: int, count: int, source: random.Random) -> None:
    """Ask a name server for names under `example`, over UDP."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(0.3)
    for number in range(count):
        host = f"{source.choice(WORDS)}{source.randint(1, 60)}.example"
        labels = b"".join(bytes([len(part)]) + part.encode() for part in host.split("."))
        kind = source.choices((1, 28, 16, 15), (70, 20, 5, 5))[0]
        query = struct.pack(">HHHHHH", number & 65535, 0x100, 1, 0, 0, 0)
        client.sendto(query + labels + b"\0" + struct.pack(">HH", kind, 1), ("127.0.0.1", port))
        try:
            client.recv(4096)
        except OSError:
            time.sleep(0.01)


def spoken(port: int, count: int, commands: list[str], source: random.Random) -> None:
    """Send text commands, a few in each connection."""
    waited(port)
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.settimeout(0.5)
            for _ in range(source.randint(1, 5)):
                command = source.choice(commands)
                filled = command.replace("KEY", f"{source.choice(WORDS)}:{source.randint(1, 300)}")
                client.sendall(filled.encode())
                with suppress(OSError):
                    client.recv(4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["http", "dns", "redis", "memcached"])
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int, help="of requests or connections")
    given = parser.parse_args()
    source = random.Random(0)
    kv = ["GET KEY\r\n", "SET KEY value\r\n", "INCR KEY\r\n", "DEL KEY\r\n", "LPUSH KEY 1 2\r\n"]
    cached = ["get KEY\r\n", "set KEY 0 60 5\r\nhello\r\n", "incr KEY 1\r\n", "delete KEY\r\n"]
    kinds: dict[str, Callable[[], None]] = {
        "http": lambda: web(given.port, given.count, source),
        "dns": lambda: names(given.port, given.count, source),
        "redis": lambda: spoken(given.port, given.count, kv, source),
        "memcached": lambda: spoken(given.port, given.count, cached, source),
    }
    kinds[given.kind]()


if __name__ == "__main__":
    main()
