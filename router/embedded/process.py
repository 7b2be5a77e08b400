"""A program run under a guardian: started, commanded, and awaited without polling.

One daemon thread per process reads the guardian's reports, so that any number of threads can wait for the
end. The guardian's protocol and its reasons are in `router.embedded.guardian`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path

from router.embedded import guardian
from router.embedded.accounts import Account
from router.embedded.errors import EmbeddedPostgresError

#: Nothing of the caller's environment reaches Postgres: PG*, LC_*, TZ and LD_* all change what it does.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class Shutdown(Enum):
    """How hard to stop a process; the value is the guardian's command."""

    FAST = b"f"
    IMMEDIATE = b"i"
    KILL = b"k"


class GuardedProcess:
    """A running program and its guardian; both end when this process does, or when `close` is called."""

    def __init__(
        self,
        argv: Iterable[str],
        *,
        account: Account | None,
        needs: Iterable[tuple[Path, int]],
        cwd: Path,
        log_fd: int,
        kept_fd: int,
        environment: Mapping[str, str] = ENVIRONMENT,
    ) -> None:
        """Start a program as `account` with its output in `log_fd`; `kept_fd` stays open in it and its children.

        Raises EmbeddedPostgresError if not even the guardian can be started; whether the program could not be,
        `failure` tells later.
        """
        #: The program's process id, once it was forked.
        self.pid: int | None = None
        #: What kept the program from starting: the step (`account` or `exec`) and the cause.
        self.failure: tuple[str, str] | None = None
        #: The exit status, negative for a signal; None before the end, and if the guardian was killed.
        self.status: int | None = None
        #: Set once the guardian has ended.
        self.ended = threading.Event()
        self._control, theirs = socket.socketpair()
        try:
            order = {
                "argv": list(argv),
                "account": None if account is None else [account.uid, account.gid],
                "needs": [(str(path), mode) for path, mode in needs],
                "cwd": str(cwd),
                "control_fd": theirs.fileno(),
                "kept_fd": kept_fd,
            }
            # A session of its own: Ctrl-C in a terminal must not stop Postgres while the router still drains.
            self._guardian = subprocess.Popen(  # noqa: S603  # our own file, no shell
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                env=dict(environment),
                cwd="/",
                pass_fds=(theirs.fileno(), kept_fd),
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            remedy = "Check the limits on processes, memory and open files"
            raise EmbeddedPostgresError(f"no process can be started for Postgres: {error}. {remedy}") from error
        finally:
            theirs.close()
        _living.add(self)
        threading.Thread(target=self._listen, name="postgres-guardian", daemon=True).start()

    @property
    def guardian_pid(self) -> int:
        """The guardian's process id."""
        return self._guardian.pid

    def is_running(self) -> bool:
        """Whether the program has not been seen to end."""
        return not self.ended.is_set()

    def shut_down(self, how: Shutdown) -> None:
        """Ask for the program's end; does nothing if it has ended."""
        try:
            self._control.send(how.value)
        except OSError:
            return

    def close(self) -> None:
        """Abandon the program: its guardian stops it within seconds, without being waited for."""
        try:
            self._control.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _listen(self) -> None:
        with self._control.makefile("rb") as reports:
            try:
                for line in reports:
                    self._note(json.loads(line))
            except (OSError, ValueError):
                pass  # the guardian died amid a report: the same as its end
        self._guardian.wait()
        self._control.close()
        self.ended.set()

    def _note(self, report: dict[str, object]) -> None:
        match report:
            case {"event": "started", "pid": int(pid)}:
                self.pid = pid
            case {"event": "failed", "step": str(step), "cause": str(cause)}:
                self.failure = (step, cause)
            case {"event": "exited", "status": int(status)}:
                self.status = status

    def _forget(self) -> None:
        # A forked child holding the control socket open would keep the guardian from seeing this process die.
        os.close(self._control.detach())


_living: weakref.WeakSet[GuardedProcess] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for process in list(_living):
        if process.is_running():
            process._forget()
    _living.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
