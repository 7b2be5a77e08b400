"""Certificates that are read again when their files change, without a restart and without a dropped connection.

gRPC asks for certificates at each handshake. Then the files are looked at: as long as they are the same nothing is read. New
ones count once the key belongs to the certificate: files that are broken, or half replaced, leave the old ones in place.
"""

import logging
import threading
from typing import Any, TypeAlias

import grpc

from router.tls import CertificateError, TlsFiles, read_files

log = logging.getLogger(__name__)

#: What tells two versions of a file apart.
_Mark: TypeAlias = tuple[int, int, int]


class Certificates:
    """The certificates of one server. Handshakes ask for them from threads of gRPC's."""

    def __init__(self, files: TlsFiles) -> None:
        """Read them. Raises CertificateError."""
        self._files = files
        self._lock = threading.Lock()
        self._marks = _marks(files)
        self._current = _read(files)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a port is to be opened with."""
        newer: Any = self.newer  # which may return None: the stubs do not know
        return grpc.dynamic_ssl_server_credentials(self._current, newer, bool(self._files.client_ca))

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Return certificates whose files have changed since the last time, and are good; else None."""
        with self._lock:
            try:
                marks = _marks(self._files)
                if marks == self._marks:
                    return None
                # Before they are read: what is broken is said once, and looked at again when it changes.
                self._marks = marks
                self._current = _read(self._files)
            except CertificateError as error:
                log.error("%s: the certificates of before stay", error)
                return None
            log.info("certificates were read again: %s", ", ".join(map(str, self._files.paths)))
            return self._current


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    pem = read_files(files)
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)


def _marks(files: TlsFiles) -> tuple[_Mark, ...]:
    try:
        found = [path.stat() for path in files.paths]
    except OSError as error:
        raise CertificateError(f"TLS: {error.filename}: {error.strerror}") from None
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)
