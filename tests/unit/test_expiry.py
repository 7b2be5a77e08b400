"""When certificates expire, as openssl says it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from certificates import Authority

from router.expiry import expires_at


def as_openssl_says(path: Path) -> float:
    done = subprocess.run(["openssl", "x509", "-in", path, "-noout", "-enddate"], capture_output=True, text=True, check=True)
    text = done.stdout.strip().removeprefix("notAfter=")
    return datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC).timestamp()


def made(path: Path, days: int, *options: str) -> Path:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
    subprocess.run(
        [*command, "-keyout", path.with_suffix(".key"), "-out", path, "-days", str(days), *options],
        capture_output=True,
        check=True,
    )
    return path


@pytest.mark.parametrize("days", [1, 365, 36_500])
def test_it_is_what_openssl_says(days: int, tmp_path: Path) -> None:
    # Beyond 2049 years have four digits.
    path = made(tmp_path / "cert.pem", days)
    assert expires_at(path) == as_openssl_says(path)


def test_many_names_make_long_lengths(tmp_path: Path) -> None:
    names = ",".join(f"DNS:host-{n}.example" for n in range(200))
    path = made(tmp_path / "cert.pem", 30, "-addext", f"subjectAltName={names}")
    assert expires_at(path) == as_openssl_says(path)


def test_a_chain_is_as_good_as_its_shortest_part(tmp_path: Path) -> None:
    leaf, issuer = made(tmp_path / "leaf.pem", 40), made(tmp_path / "issuer.pem", 20)
    chain = tmp_path / "chain.pem"
    chain.write_text("text before\n" + leaf.read_text() + issuer.read_text())
    assert expires_at(chain) == as_openssl_says(issuer)


def test_a_signed_certificate_too(tmp_path: Path) -> None:
    cert, _ = Authority.create(tmp_path).sign("server")
    assert expires_at(cert) == as_openssl_says(cert)


def test_what_is_no_certificate_has_no_end(tmp_path: Path) -> None:
    assert expires_at(tmp_path / "missing.pem") is None
    path = tmp_path / "broken.pem"
    for text in ("", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path.write_text(text)
        assert expires_at(path) is None, text
    good = made(tmp_path / "cert.pem", 10).read_text().splitlines()
    path.write_text("\n".join([good[0], *good[1:3], good[-1]]))
    assert expires_at(path) is None
