"""Delay without netem, which many kernels lack: packets wait in netfilter's queues, and this process lets them go late.

Run as a program of its own inside a namespace. A queue's number is the delay of its packets in milliseconds. Each line
of standard input names one to open, and is answered by a line. It ends when standard input does. Of a packet only
its number comes here, all else stays in the kernel: measured, 95 Mbit/s cost 15 to 29% of a core.

It imports nothing but the standard library, and starts within 30 ms. The messages are those of
linux/netfilter/nfnetlink_queue.h.
"""

import select
import socket
import struct
import sys
import time
from collections import deque
from typing import Final

WAITING_MAX: Final = 60_000  # packets in one queue; 1 Gbit/s times 600 ms are 50,000
RECEIVE_BUFFER_BYTES: Final = 8 << 20
MESSAGE_BYTES_MAX: Final = 65_536
_NETLINK_NETFILTER: Final = 12
_SO_RCVBUFFORCE: Final = 33
_SOL_NETLINK: Final = 270
_NETLINK_NO_ENOBUFS: Final = 5
_QUEUE: Final = 3 << 8
_PACKET, _CONFIG, _VERDICT_BATCH = _QUEUE | 0, _QUEUE | 2, _QUEUE | 3
_REQUEST, _ACKNOWLEDGE = 1, 4
_ERROR: Final = 2
_BIND: Final = 1
_COPY_META: Final = 1
_WHOLE_PACKETS: Final = 4  # NFQA_CFG_F_GSO: large ones need not be cut before they wait
_ACCEPT: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct(">BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")


class Queues:
    """The open queues, and when each of their packets is to go."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:  # for root alone; what does not fit goes with the next packet of its queue
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        self._socket.bind((0, 0))
        self._waiting: dict[int, deque[tuple[float, int]]] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def open(self, delay_ms: int) -> None:
        """Let packets wait so long in the queue of this number. Raises OSError."""
        self._waiting[delay_ms] = deque()
        self._configure(delay_ms, 1, struct.pack(">BBH", _BIND, 0, 0))
        self._configure(delay_ms, 2, struct.pack(">IB", 0, _COPY_META))
        self._configure(delay_ms, 3, struct.pack(">I", WAITING_MAX))
        self._configure(delay_ms, 5, struct.pack(">I", _WHOLE_PACKETS), (4, struct.pack(">I", _WHOLE_PACKETS)))

    def receive(self, now: float) -> None:
        """Take in what has come."""
        while True:
            try:
                message = self._socket.recv(MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._take(message, now)

    def _take(self, message: bytes, now: float) -> None:
        """A message is one packet: its queue, then the packet's number."""
        if _HEADER.unpack_from(message)[1] == _PACKET:
            queue = _FAMILY.unpack_from(message, 16)[2]
            (number,) = struct.unpack_from(">I", message, 24)  # the first attribute, NFQA_PACKET_HDR
            self._waiting[queue].append((now + queue / 1000, number))

    def release(self, now: float) -> float | None:
        """Let go what has waited long enough; how long until the next one has. None if nothing waits."""
        next_at = None
        for queue, waiting in self._waiting.items():
            last = None
            while waiting and waiting[0][0] <= now:
                last = waiting.popleft()[1]
            if last is not None:
                verdict = _attribute(2, struct.pack(">II", _ACCEPT, last))
                self._socket.send(_message(_VERDICT_BATCH, _REQUEST, queue, verdict))
            if waiting and (next_at is None or waiting[0][0] < next_at):
                next_at = waiting[0][0]
        return None if next_at is None else max(0.0, next_at - now)

    def _configure(self, queue: int, type_: int, value: bytes, *more: tuple[int, bytes]) -> None:
        attributes = b"".join(_attribute(*pair) for pair in ((type_, value), *more))
        self._socket.send(_message(_CONFIG, _REQUEST | _ACKNOWLEDGE, queue, attributes))
        while True:
            answer = self._socket.recv(MESSAGE_BYTES_MAX)
            if _HEADER.unpack_from(answer)[1] == _ERROR:
                break
            self._take(answer, time.monotonic())
        (error,) = struct.unpack_from("=i", answer, 16)
        if error:
            raise OSError(-error, f"queue {queue} of netfilter cannot be opened")


def main() -> None:
    """Serve until standard input ends."""
    queues = Queues()
    poll = select.epoll()
    poll.register(queues, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    wait_s = None
    while True:
        events = dict(poll.poll(wait_s))
        if queues.fileno() in events:
            queues.receive(time.monotonic())
        wait_s = queues.release(time.monotonic())
        if sys.stdin.fileno() in events:
            line = sys.stdin.readline()
            if not line:
                return
            queues.open(int(line))
            print("open", flush=True)


def _message(type_: int, flags: int, queue: int, attributes: bytes) -> bytes:
    body = _FAMILY.pack(socket.AF_UNSPEC, 0, queue) + attributes
    return _HEADER.pack(_HEADER.size + len(body), type_, flags, 0, 0) + body


def _attribute(type_: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), type_) + value + bytes(-len(value) % 4)


if __name__ == "__main__":
    main()
