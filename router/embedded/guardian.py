"""Stands between the router and Postgres, so that Postgres ends when the router does, however that happens.

The launcher runs this file as a script, `python -I -S guardian.py ORDER`, with ORDER a JSON object. It
imports nothing but the standard library, and all of it before it gives up its privileges, because the
interpreter may live in a directory that the unprivileged account cannot enter.

What it does, in order: becomes the unprivileged account, if the order names one; starts the program as its
own child; then waits for the first of two things. When the child ends it reports that and ends too. When the
control socket reaches its end, which happens exactly when the launcher closes it or dies, even by SIGKILL, it
stops the child: a fast shutdown (SIGINT), then an immediate one (SIGQUIT), then SIGKILL. Should the guardian
itself be killed, the kernel interrupts the child (PR_SET_PDEATHSIG, Linux), so both have to be killed at the
same instant, on a system other than Linux, to leave a server behind.

Why a process, and not PR_SET_PDEATHSIG alone: the kernel ties that signal to the *thread* that forked, so a
server started from a short-lived worker thread would be stopped with it; it is cleared when credentials
change; and macOS has no such thing. This process has one thread, sets the signal after changing credentials,
and a socket's end works everywhere. Being the parent, it may also signal its child without any doubt about
whose pid that is.

Why a capability is kept: Postgres refuses to run as root, but root's data directory or virtual environment is often
below a directory only root may enter (/root, mkdtemp). The account keeps the least of: nothing, CAP_DAC_READ_SEARCH
(enter and read), CAP_DAC_OVERRIDE, that lets it reach what the order says it needs. It is kept as an *ambient*
capability, the only kind that survives exec of an ordinary program. Postgres also asks access(2) about its own
programs, which by default answers as if there were no capabilities; the secure bit NO_SETUID_FIXUP makes it answer
truly.

The control socket carries JSON lines to the launcher, {"event": "started" | "failed" | "exited", ...}, and
single bytes from it: `f`ast, `i`mmediate, `k`ill.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

#: Seconds that each step of stopping an abandoned child may take before the next, harsher one.
ABANDONED = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 60.0))
COMMANDS = {ord("f"): signal.SIGINT, ord("i"): signal.SIGQUIT, ord("k"): signal.SIGKILL}
#: The guardian lives exactly as long as its child; a signal for the whole group or cgroup must not end it
#: before.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8


def main() -> int:
    """Carry out the order in the only argument; the status is 0 once the child has ended and was reported."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    control = socket.socket(fileno=order["control_fd"])
    control.set_inheritable(False)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    wakeup, wakeup_end = os.pipe()
    os.set_blocking(wakeup_end, False)
    signal.set_wakeup_fd(wakeup_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
    if order["account"] is not None:
        try:
            uid, gid = order["account"]
            become(libc, uid, gid, [(path, mode) for path, mode in order["needs"]])
        except OSError as error:
            report(control, event="failed", step="account", cause=explain(error))
            return 1
    guardian = os.getpid()
    # Held back until the child takes them: a stop requested at once must not fall into its first moments, when it
    # still ignores what the guardian ignores.
    signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    child = os.fork()
    if child == 0:
        run(libc, guardian, order["argv"], order["cwd"], control)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    os.close(order["kept_fd"])  # only the child and its children are to hold it
    report(control, event="started", pid=child)
    status = watch(child, control, wakeup)
    report(control, event="exited", status=status)
    return 0


def become(libc: ctypes.CDLL | None, uid: int, gid: int, needs: list[tuple[str, int]]) -> None:
    """Become another account for good, keeping the least capability with which it reaches `needs`; OSError if none."""
    if libc is not None:
        checked(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    if libc is None:
        missing = unreachable(needs)
        if missing is not None:
            raise missing
        return
    permitted = permitted_capabilities(libc)
    available = permitted & (1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    for capability in (None, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        kept = 0 if capability is None else 1 << capability
        if kept & ~available:
            continue
        if kept and permitted & 1 << CAP_SETPCAP:
            set_capabilities(libc, effective=1 << CAP_SETPCAP, permitted=permitted, inheritable=0)
            bits = libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) | SECBIT_NO_SETUID_FIXUP
            checked(libc.prctl(PR_SET_SECUREBITS, bits, 0, 0, 0), "PR_SET_SECUREBITS")
        set_capabilities(libc, effective=kept, permitted=permitted, inheritable=0)
        missing = unreachable(needs)
        if missing is None:
            set_capabilities(libc, effective=kept, permitted=kept, inheritable=kept)
            if capability is not None:
                checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), "PR_CAP_AMBIENT_RAISE")
            return
    if missing is not None:
        raise missing


def unreachable(needs: list[tuple[str, int]]) -> PermissionError | None:
    """The first path that this process, with its effective capabilities, cannot use as asked."""
    for path, mode in needs:
        # Programs are judged as Postgres will judge them, by the plain question.
        effective = mode != os.X_OK and os.access in os.supports_effective_ids
        if not os.access(path, mode, effective_ids=effective):
            return PermissionError(errno.EACCES, f"the account with uid {os.geteuid()} may not use it", path)
    return None


def permitted_capabilities(libc: ctypes.CDLL) -> int:
    """The first 32 permitted capabilities of this process, one bit each."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    checked(libc.capget(header, data), "capget")
    return int(data[1])


def set_capabilities(libc: ctypes.CDLL, *, effective: int, permitted: int, inheritable: int) -> None:
    """Set the first 32 capabilities of this process and clear the others."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(effective, permitted, inheritable, 0, 0, 0)
    checked(libc.capset(header, data), "capset")


def checked(result: int, call: str) -> None:
    """Raise OSError if a C function said that it failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def run(libc: ctypes.CDLL | None, guardian: int, argv: list[str], cwd: str, control: socket.socket) -> NoReturn:
    """In the child: arrange to be interrupted if the guardian dies, then become the program."""
    try:
        if libc is not None:
            checked(libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0), "PR_SET_PDEATHSIG")
            if os.getppid() != guardian:  # it died before the request was in force
                os._exit(1)
        for number in (*IGNORED, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
        os.chdir(cwd)
        os.execve(argv[0], argv, dict(os.environ))  # noqa: S606  # no shell is the point
    except OSError as error:
        report(control, event="failed", step="exec", cause=explain(error))
    finally:
        os._exit(127)


def watch(child: int, control: socket.socket, wakeup: int) -> int:
    """Wait for the child's end, passing on commands, and stop it once nobody is left to command."""
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    poll.register(control, select.POLLIN)
    steps = iter(ABANDONED)
    deadline: float | None = None
    while True:
        timeout_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        events = dict(poll.poll(timeout_ms))
        if wakeup in events:
            os.read(wakeup, 4096)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended == child:
                return os.waitstatus_to_exitcode(status)
        abandoned = deadline is not None and time.monotonic() >= deadline
        if control.fileno() in events:
            commands = received(control)
            for command in commands:
                if command in COMMANDS:
                    os.kill(child, COMMANDS[command])
            if not commands:
                poll.unregister(control)
                abandoned = True
        if abandoned:
            step, patience_s = next(steps, (signal.SIGKILL, ABANDONED[-1][1]))
            os.kill(child, step)
            deadline = time.monotonic() + patience_s


def received(control: socket.socket) -> bytes:
    """The bytes that have arrived, empty at the end of the stream."""
    try:
        return control.recv(64)
    except ConnectionError:
        return b""


def report(control: socket.socket, **event: object) -> None:
    """Tell the launcher, if it is still there."""
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(event).encode() + b"\n")


def explain(error: OSError) -> str:
    """The error in words, with the path it is about."""
    return f"{error.strerror}: {error.filename}" if error.filename is not None else str(error.strerror)


if __name__ == "__main__":
    sys.exit(main())
