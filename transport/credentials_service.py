"""The certificate that a process shows on its bulk connections, and TLS contexts that trust one peer's alone.

Keys are made afresh at each start and leave the process's memory only for the moment that OpenSSL takes to read them.
Nobody vouches for a certificate: both sides have it from one another over their libp2p connection, which proves who
they are. So who holds the key of a certificate that was pinned for a peer is that peer, as it runs now.

Sessions are not resumed: a ticket would let somebody in without the key.
"""

import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from .bulk_messages import CERTIFICATE_BYTES_MAX
from .wire import Malformed

# Whoever's clock is wrong has a certificate that is valid all the same: pins say which one counts.
_FROM: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL: Final = datetime(2999, 1, 1, tzinfo=UTC)


class Credentials:
    """This process's key and certificate."""

    def __init__(self) -> None:
        # Loaded with the first bulk connection: an idle node has no use for them.
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Shoal")])
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(_FROM).not_valid_after(_UNTIL)
        made = builder.sign(key, hashes.SHA256())
        self.certificate = made.public_bytes(Encoding.DER)
        own_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._pem = made.public_bytes(Encoding.PEM) + own_key

    def contexts(self, theirs: bytes) -> tuple[ssl.SSLContext, ssl.SSLContext] | Malformed:
        """For connections that the peer with this certificate, DER, makes, and for those to it.

        Raises:
            OSError: no file can be made for the key.
        """
        accepting, dialing = (bare_context(each) for each in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
        try:
            if len(theirs) > CERTIFICATE_BYTES_MAX:
                raise ValueError("too long")
            for context in (accepting, dialing):
                context.load_verify_locations(cadata=theirs)
        except (ssl.SSLError, ValueError) as error:
            return Malformed(f"not a certificate: {error}")
        # OpenSSL reads keys from files alone.
        with tempfile.TemporaryDirectory(prefix="shoal-") as directory:
            path = Path(directory) / "pem"
            path.touch(mode=0o600)
            path.write_bytes(self._pem)
            for context in (accepting, dialing):
                context.load_cert_chain(path)
        return accepting, dialing


def bare_context(protocol: int) -> ssl.SSLContext:
    """TLS 1.3 with a certificate demanded, and none trusted."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a pin says more
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context
