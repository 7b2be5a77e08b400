"""The faults there are, and what is promised of each."""

from benchmarks.soak import breaking, promises
from benchmarks.soak.fault import Fault, refused, spooled, spooled_and_stale

_ALL = promises.no_failures("Route", "BatchRoute", "Reward", "BatchReward")

#: On a service that runs its own Postgres.
OF_PROCESSES = (
    Fault("worker killed", breaking.kill_role("worker"), (_ALL, promises.recovers_within(10)), over=breaking.is_whole),
    Fault("keeper killed", breaking.kill_role("keeper"), (_ALL, promises.recovers_within(10)), over=breaking.is_whole),
    Fault(
        "postmaster killed",
        breaking.kill_role("postmaster"),
        (_ALL, promises.rewards_in_time, promises.recovers_within(15)),
        over=lambda stage: stage.service.is_whole(),
    ),
    Fault("supervisor killed", breaking.kill_supervisor, (promises.recovers_within(20),), breaking.start_again),
    Fault("everything killed", breaking.kill_everything, (promises.recovers_within(20),), breaking.start_again),
    Fault(
        "spool torn",
        breaking.hang,
        (promises.damage_is_kept, promises.recovers_within(25)),
        breaking.kill_and_tear,
        seen=spooled,
    ),
    Fault("rolling restart", breaking.renew, (_ALL, promises.recovers_within(30)), over=breaking.is_whole),
)
#: On a service whose Postgres is somebody else's.
OF_POSTGRES = (
    Fault(
        "Postgres stopped",
        breaking.stop_postgres,
        (_ALL, promises.rewards_in_time, promises.staleness_is_told, promises.no_storm, promises.recovers_within(10)),
        breaking.start_postgres,
        seen=spooled_and_stale,
        lasts_s=2.0,
    ),
    Fault(
        "router started without Postgres",
        breaking.restart_without_postgres,
        (promises.stale_at_most(8.0), promises.recovers_within(10)),
        breaking.start_postgres,
        seen=spooled_and_stale,
    ),
    Fault("Postgres restarted", breaking.restart_postgres, (_ALL, promises.rewards_in_time, promises.recovers_within(10))),
    Fault(
        "Postgres slow",
        breaking.slow,
        (_ALL, promises.rewards_in_time, promises.recovers_within(10)),
        breaking.unslow,
        lasts_s=3.0,
    ),
    Fault(
        "Postgres hung",
        breaking.hang,
        (_ALL, promises.rewards_in_time, promises.staleness_is_told, promises.recovers_within(10)),
        breaking.unhang,
        seen=spooled_and_stale,
        lasts_s=4.0,
    ),
    Fault(
        "Postgres read-only",
        breaking.read_only,
        (_ALL, promises.rewards_in_time, promises.recovers_within(10), promises.definitions_change_again),
        breaking.writable,
        seen=spooled,
        lasts_s=1.5,
    ),
    Fault(
        "Postgres out of connections",
        breaking.occupy,
        (_ALL, promises.rewards_in_time, promises.staleness_is_told, promises.recovers_within(10)),
        breaking.vacate,
        seen=spooled_and_stale,
        lasts_s=2.0,
    ),
)
#: On a service whose Postgres is on a volume that can be filled.
DISK_OF_POSTGRES = Fault(
    "disk of Postgres full",
    breaking.fill_volume,
    (_ALL, promises.rewards_in_time, promises.recovers_within(15)),
    breaking.make_room,
    seen=spooled,
)
#: On a service whose spool is on such a volume.
DISK_OF_SPOOL = Fault(
    "disk of the spool full",
    breaking.fill_volume,
    (promises.refusals_say_when, promises.no_failures("Reward", "BatchReward"), promises.recovers_within(5)),
    breaking.make_room,
    seen=refused,
)
