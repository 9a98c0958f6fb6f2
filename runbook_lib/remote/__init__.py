"""Hosts over SSH: connect, run, probe, files, detached jobs, locks. The only room that touches hosts."""

from runbook_lib.remote.fanout import Result, fan_out
from runbook_lib.remote.host import Host
from runbook_lib.remote.jobs import (
    JobHandle,
    JobState,
    JobStatus,
    Progress,
    job_directory,
    job_status,
    start_job,
    stop_job,
    wait_job,
)
from runbook_lib.remote.locks import LOCK_KEY, LockOwner, SeenLock, lock_answer, lock_section, look_at_lock, release
from runbook_lib.remote.run import Observer, RawCapture, output_digest
from runbook_lib.remote.scope import cancelled
from runbook_lib.remote.target import Target
from runbook_lib.remote.trust import HostKey, fetch_host_key, pin, pinned

__all__ = [
    "LOCK_KEY",
    "Host",
    "HostKey",
    "JobHandle",
    "JobState",
    "JobStatus",
    "LockOwner",
    "Observer",
    "Progress",
    "RawCapture",
    "Result",
    "SeenLock",
    "Target",
    "cancelled",
    "fan_out",
    "fetch_host_key",
    "job_directory",
    "job_status",
    "lock_answer",
    "lock_section",
    "look_at_lock",
    "output_digest",
    "pin",
    "pinned",
    "release",
    "start_job",
    "stop_job",
    "wait_job",
]
