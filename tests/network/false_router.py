"""A router that answers UPnP as no good one does, in one of these ways. It passes nothing on, and knows no Shoal.

permanent: it knows no leases. others: the port is another computer's, and it would overwrite that. elsewhere: its
description is somebody else's, whose address is given. leading: its description's base is. endless: it has no end.
"""

import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final

HERE, HOME = "192.168.1.1", "5.0.1.2"
HTTP_PORT: Final = 8080
TAKEN: Final = "4011"
SERVICE: Final = "urn:schemas-upnp-org:service:WANIPConnection:1"


class Pages(BaseHTTPRequestHandler):
    """The description, and the actions."""

    way = victim = ""

    def do_GET(self) -> None:
        base = f"<URLBase>http://{self.victim}:80/</URLBase>" if self.way == "leading" else ""
        text = (
            f"<root>{base}<service><serviceType>{SERVICE}</serviceType><controlURL>/ctl</controlURL></service></root>"
        )
        if self.way != "endless":
            self._say(200, text)
            return
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b" " * 65_536)

    def do_POST(self) -> None:
        action = self.headers["SOAPAction"].partition("#")[2].strip('"')
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        port, lease = (_value(body, name) for name in ("NewExternalPort", "NewLeaseDuration"))
        if action == "GetExternalIPAddress":
            self._say(200, f"<NewExternalIPAddress>{HOME}</NewExternalIPAddress>")
        elif action == "GetSpecificPortMappingEntry":
            is_others = self.way == "others" and port == TAKEN
            self._say(200 if is_others else 500, "<NewInternalClient>192.168.1.99</NewInternalClient>")
        elif self.way == "permanent" and lease != "0":
            self._say(500, "<errorCode>725</errorCode>")
        else:
            self._say(200, "")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def _value(body: str, name: str) -> str:
    match = re.search(f"<{name}>([^<]*)<", body)
    return "" if match is None else match[1]


def main(way: str, victim: str) -> None:
    Pages.way, Pages.victim = way, victim
    pages = HTTPServer((HERE, HTTP_PORT), Pages)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    place = f"{victim}:80" if way == "elsewhere" else f"{HERE}:{HTTP_PORT}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("", 1900))
        membership = socket.inet_aton("239.255.255.250") + socket.inet_aton(HERE)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        print("listening", flush=True)
        while True:
            _, sender = udp.recvfrom(2000)
            udp.sendto(f"HTTP/1.1 200 OK\r\nLOCATION: http://{place}/\r\n\r\n".encode(), sender)


if __name__ == "__main__":
    main(*sys.argv[1:])
