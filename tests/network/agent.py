"""A computer's hands in the laboratory: sends, listens and dials where it runs, at the word of a test.

Each line of standard input is a command, each is answered by one line. It knows nothing of Shoal: what it sees is what
the network does.
"""

import socket
import sys
import time
from typing import Final

CHUNK_BYTES: Final = 65_536
FAMILIES: Final = {"4": socket.AF_INET, "6": socket.AF_INET6}  # by the version that a command may name


class Hands:
    """The sockets that it has open, by port."""

    def __init__(self) -> None:
        self._udp: dict[int, socket.socket] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._flow: socket.socket | None = None

    def bind(self, port: str, version: str = "4") -> str:
        """Open a UDP socket."""
        opened = self._udp[int(port)] = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        opened.bind(("", int(port)))
        return "bound"

    def send(self, port: str, host: str, to: str, text: str, count: str = "1") -> str:
        """UDP packets from a port of ours."""
        for _ in range(int(count)):
            self._udp[int(port)].sendto(text.encode(), (host, int(to)))
        return "sent"

    def hear(self, port: str, within_s: str = "1") -> str:
        """The next packet at a port: its text, and where it came from."""
        self._udp[int(port)].settimeout(float(within_s))
        try:
            text, (host, source, *_) = self._udp[int(port)].recvfrom(2000)
        except TimeoutError:
            return "silence"
        return f"{text.decode()} from {host}:{source}"

    def count(self, port: str, within_s: str) -> str:
        """How many packets come until there is silence."""
        heard = 0
        while self.hear(port, within_s) != "silence":
            heard += 1
        return str(heard)

    def listen(self, port: str, version: str = "4") -> str:
        """Open a TCP listener."""
        self._listeners[int(port)] = socket.create_server(("", int(port)), family=FAMILIES[version])
        return "listening"

    def accept(self, port: str, within_s: str = "1") -> str:
        """The next connection to a listener: where it came from. It becomes the flow."""
        self._listeners[int(port)].settimeout(float(within_s))
        try:
            self._flow, (host, source, *_) = self._listeners[int(port)].accept()
        except TimeoutError:
            return "silence"
        return f"{host}:{source}"

    def dial(self, host: str, port: str, within_s: str = "1", source: str = "0") -> str:
        """Open a TCP connection, from a port of ours; how long it took in ms, or how it failed. It becomes the flow."""
        opened = socket.socket(FAMILIES["6" if ":" in host else "4"], socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(("", int(source)))
        opened.settimeout(float(within_s))
        began = time.monotonic()
        try:
            opened.connect((host, int(port)))
        except TimeoutError:
            return "silence"
        except OSError as error:
            return str(error.strerror)
        self._flow = opened
        return f"{(time.monotonic() - began) * 1000:.1f}"

    def push(self, size: str) -> str:
        """Send so many bytes by the flow."""
        assert self._flow is not None
        self._flow.settimeout(60)
        try:
            self._flow.sendall(bytes(int(size)))
        except OSError as error:
            return str(error.strerror)
        return "pushed"

    def pull(self, size: str, within_s: str = "30") -> str:
        """Receive so many bytes by the flow; seconds from the first of them to the last."""
        assert self._flow is not None
        self._flow.settimeout(float(within_s))
        left, began = int(size), None
        try:
            while left > 0:
                data = self._flow.recv(CHUNK_BYTES)
                if not data:
                    return "end"
                began = began or time.monotonic()
                left -= len(data)
        except TimeoutError:
            return "silence"
        return f"{time.monotonic() - (began or 0):.3f}"


def main() -> None:
    """Obey until standard input ends."""
    hands = Hands()
    for line in sys.stdin:
        command, *arguments = line.split()
        print(getattr(hands, command)(*arguments), flush=True)


if __name__ == "__main__":
    main()
