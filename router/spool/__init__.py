"""The spool: segment files on local disk, written by workers and drained by the keeper, whatever dies in between.

Layout
    One directory for each deployment. A segment is named `TIME-RANDOM` with a suffix that says what it holds, and is a
    sequence of frames (`router.spool.frames`).

Protocol
    A segment has one writer, which holds an `flock` on it for as long as it may write. It only grows, a whole `write` at a
    time. A write that fails half way is cut off again, and as a reader may have seen it, the segment is left for a new one.

    Readers open segments without a claim on them. A segment without a lock is complete: its reader removes it once all of
    it is stored elsewhere. Readers of one segment do no harm to one another, as long as storing twice changes nothing.

    Records that will never be stored are set aside beside their segment (`router.spool.aside`).
"""

from router.spool.frames import LARGEST_PAYLOAD, Record, frame, frames, next_frame
from router.spool.reader import SegmentReader
from router.spool.writer import SegmentWriter

__all__ = ["LARGEST_PAYLOAD", "Record", "SegmentReader", "SegmentWriter", "frame", "frames", "next_frame"]
