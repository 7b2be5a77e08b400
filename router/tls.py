"""The files of TLS: a certificate, its key, and who signs clients' certificates."""

from dataclasses import dataclass, field
from pathlib import Path


class CertificateError(ValueError):
    """Certificates cannot be used; the message names the files and says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where a server's certificates are, in PEM."""

    cert: str
    key: str
    #: Who signs clients' certificates, which are then required; empty asks for none.
    client_ca: str = ""

    @property
    def paths(self) -> list[Path]:
        """Every file."""
        return [Path(name) for name in (self.cert, self.key, self.client_ca) if name]


@dataclass(frozen=True, slots=True)
class Pem:
    """What is in them."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


def read_files(files: TlsFiles) -> Pem:
    """Return what is in the files. Raises CertificateError if a server could not use it."""
    import ssl  # what most starts have no use for

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        cert, key = Path(files.cert).read_bytes(), Path(files.key).read_bytes()
        ca = Path(files.client_ca).read_bytes() if files.client_ca else None
        # A key with a password is refused: nobody is there to be asked.
        context.load_cert_chain(files.cert, files.key, password="")
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
        if (cert, key) != (Path(files.cert).read_bytes(), Path(files.key).read_bytes()):
            raise CertificateError(f"TLS: {files.cert}, {files.key}: they changed while they were read")
    except ssl.SSLError as error:
        shown = ", ".join(map(str, files.paths))
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise CertificateError(f"TLS: {shown}: {reason}: give a PEM certificate and the key that belongs to it") from None
    except OSError as error:
        raise CertificateError(f"TLS: {error.filename}: {error.strerror}") from None
    return Pem(cert, key, ca)
