"""How things are broken and mended."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from benchmarks.soak.books import files_of
from benchmarks.soak.stage import Service, Stage, alive, fill, kill, wait_until
from router.spool import frame, frames
from router.storage import saved


def kill_role(role: str) -> Callable[[Stage], None]:
    def inject(stage: Stage) -> None:
        victims = stage.service.processes()[role][:1]
        stage.kept["victims"] = victims
        kill(victims)

    return inject


def is_whole(stage: Stage) -> bool:
    victims = stage.kept["victims"]
    assert isinstance(victims, list), "noted when they were killed"
    return stage.service.is_whole(without=victims)


def kill_supervisor(stage: Stage) -> None:
    assert stage.service.process is not None, "it runs"
    below = list(stage.service.processes()["worker"]) + stage.service.processes()["keeper"]
    postgres = stage.postgres_processes() if stage.postgres is None else []
    kill([stage.service.process.pid])
    stage.service.process.wait()
    wait_until(lambda: not any(map(alive, [*below, *postgres])), "workers, keeper and Postgres ended with their supervisor")


def start_again(stage: Stage) -> None:
    stage.service.start()


def kill_everything(stage: Stage) -> None:
    stage.service.kill_everything()


def renew(stage: Stage) -> None:
    found = stage.service.processes()
    stage.kept["victims"] = found["worker"] + found["keeper"]
    assert stage.service.process is not None, "it runs"
    stage.service.process.send_signal(signal.SIGHUP)


def kill_and_tear(stage: Stage) -> None:
    """End everything while events wait in the spool, and leave half a record at the end of every segment."""
    stage.service.kill_everything()
    stage.kept["torn"] = tear(stage.service)
    stage.service.start()


def tear(service: Service) -> int:
    """Append half a record to every segment, as a crash amid a write does; returns how many that were."""
    before = len(files_of(service.spool, ".damaged"))
    segments = [path for path in files_of(service.spool, ".events", ".journal") if path.stat().st_size]
    for path in segments:
        (kind, payload), *_ = frames(path.read_bytes())[0]
        with path.open("ab") as file:
            file.write(frame(kind, payload)[: (len(payload) + 9) // 2])
    return before + len(segments)


class Doorbell:
    """Counts who knocks at a port where nobody is in."""

    def __init__(self, port: int) -> None:
        self.rings = 0
        self._since = time.monotonic()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._thread = threading.Thread(target=self._answer, name="doorbell")
        self._thread.start()

    def per_second(self) -> float:
        """Stop, and return how many came in a second."""
        rate = self.rings / (time.monotonic() - self._since)
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        return rate

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.rings += 1
                connection.close()


def stop_postgres(stage: Stage) -> None:
    assert stage.postgres is not None, "it is not the service's own"
    port = stage.postgres.record.port
    stage.postgres.stop()
    stage.kept["doorbell"] = Doorbell(port)


def start_postgres(stage: Stage) -> None:
    doorbell = stage.kept.pop("doorbell")
    assert isinstance(doorbell, Doorbell), "hung up when Postgres was stopped"
    assert stage.postgres is not None, "it is not the service's own"
    stage.kept["attempts_per_s"] = doorbell.per_second()
    url = stage.postgres.url
    stage.postgres.start()
    assert stage.postgres.url == url, "Postgres is back where it was"


def restart_without_postgres(stage: Stage) -> None:
    """Stop Postgres, end everything else by force, and start the router on what it saved."""
    wanted = stage.kept["experiments"]
    assert isinstance(wanted, list), "noted when they were made"
    wait_until(lambda: _saved(stage.service) >= {*wanted}, "the saved copy knows the experiments")
    stop_postgres(stage)
    stage.service.kill_everything()
    stage.service.start()


def _saved(service: Service) -> set[str]:
    found: set[str] = set()
    for path in files_of(service.spool, saved.FILE):
        with contextlib.closing(saved.SavedFile(path)) as file:
            found |= {definition.experiment_id for definition, _ in file.experiments()}
    return found


def restart_postgres(stage: Stage) -> None:
    assert stage.postgres is not None, "it is not the service's own"
    stage.postgres.restart()


def hang(stage: Stage) -> None:
    stage.kept["hung"] = pids = stage.postgres_processes()
    kill(pids, signal.SIGSTOP)


def unhang(stage: Stage) -> None:
    pids = stage.kept["hung"]
    assert isinstance(pids, list), "noted when they were stopped"
    kill(pids, signal.SIGCONT)


class _Slowness:
    """Lets Postgres run for a moment, then stops it for a longer one, and again."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="slowness")
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.is_set():
            hang(self._stage)
            self._ended.wait(0.4)
            unhang(self._stage)
            self._ended.wait(0.1)


def slow(stage: Stage) -> None:
    stage.kept["slowness"] = _Slowness(stage)


def unslow(stage: Stage) -> None:
    slowness = stage.kept.pop("slowness")
    assert isinstance(slowness, _Slowness), "begun before"
    slowness.end()


def read_only(stage: Stage) -> None:
    with stage.admin() as connection:
        database = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(database))
    stage.cut_connections()


def writable(stage: Stage) -> None:
    # Connections that were made meanwhile stay read-only: whoever needs another must make it.
    with stage.admin() as connection:
        database = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(database))


def occupy(stage: Stage) -> None:
    admin = stage.admin()
    held = [admin]
    stage.kept["held"] = held
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bandit-router'"
    while True:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bandit-router'")
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.append(psycopg.connect(stage.service.url, autocommit=True))
        if admin.execute(count).fetchone() == (0,):
            return


def vacate(stage: Stage) -> None:
    held = stage.kept.pop("held")
    assert isinstance(held, list), "opened before"
    for connection in held:
        connection.close()


def fill_volume(stage: Stage) -> None:
    assert stage.volume is not None, "there is one to fill"
    stage.kept["ballast"] = fill(stage.volume)


def make_room(stage: Stage) -> None:
    assert stage.volume is not None, "there is one to fill"
    (stage.volume / "ballast").unlink()
    # A Postgres that cannot write its log gives up; an operator starts it again.
    if stage.postgres is not None and not stage.postgres.is_running():
        stage.postgres.restart()
