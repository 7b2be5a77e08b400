"""When certificates expire: read out of their DER, because Python tells it of no certificate but a peer's.

Source
    RFC 5280, section 4.1: Certificate, TBSCertificate and Validity. ITU-T X.690: tags and lengths.
"""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
#: Tags: the version of a certificate, which the first one leaves out; years of two digits.
_VERSION, _UTC_TIME = 0xA0, 0x17


def expires_at(path: Path) -> float | None:
    """Return when the first certificate of a PEM file expires, in seconds since 1970; None if it cannot be read.

    A chain is as good as its shortest part.
    """
    try:
        blocks = _BLOCK.findall(path.read_text("ascii", "replace"))
        return min((_not_after(ssl.PEM_cert_to_DER_cert(block)) for block in blocks), default=None)
    except (OSError, ValueError, IndexError):
        return None


def _not_after(der: bytes) -> float:
    (_, certificate), *_ = _elements(der)
    (_, signed), *_ = _elements(certificate)
    # Version, serial number, signature's algorithm, issuer, validity.
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    _, (tag, text) = _elements(fields[3])
    digits = text.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return tag and content of each element of a sequence."""
    while data:
        length, begin = data[1], 2
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(data[2:begin])
        if len(data) < begin + length:
            raise ValueError("an element is cut short")
        yield data[0], data[begin : begin + length]
        data = data[begin + length :]
