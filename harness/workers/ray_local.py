"""How `--ray local` starts Ray: without the processes and timers that a cluster of one machine does not need.

Idle with two workers, Ray's own settings take 3.5 % of two cores, these 1.8 %.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

SETTINGS: Final = {
    # Ray takes the loopback as this machine's address with it, so that none of its ports can be reached from outside.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Runs have the priority that they have without Ray. With Ray's, 15, any other program would take the CPU from them.
    "RAY_worker_niceness": "0",
    # A worker that Ray starts in advance lacks the variables that we set for runs, so none could use it.
    "RAY_prestart_worker_first_driver": "0",
    # Metrics, statistics and a history of calls, which only a dashboard would show. An interval of 0 means never.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_timeline": "0",
    "RAY_debug_dump_period_milliseconds": "0",
    "RAY_io_context_event_loop_lag_collection_interval_ms": "0",
    "RAY_io_context_monitor_probe_interval_ms": "60000",
    # Checks for other nodes, an autoscaler, idle workers and large objects; 0.1 to 1 s by default.
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    "RAY_kill_idle_workers_interval_ms": "5000",
    "RAY_object_manager_timer_freq_ms": "1000",
    "RAY_raylet_check_gc_period_milliseconds": "10000",
    "RAY_local_fs_monitor_interval_ms": "10000",
    "RAY_memory_monitor_refresh_ms": "2000",  # still ends a worker before the memory is full
}

NOT_NEEDED: Final = (
    "start_log_monitor",  # passes on what workers print: `log_to_driver=False` asks for none of it
    "start_monitor",  # the autoscaler
    "start_api_server",  # without a dashboard only for Ray's usage statistics, which `ray.init` does not send
)


@contextlib.contextmanager
def only_needed_processes() -> Iterator[None]:
    """Inside, `ray.init` starts no process that this cluster does not need. Ray has no public option for it.

    A later Ray may not have these private names: then it starts all of them, which costs CPU time and nothing else.
    """
    try:
        from ray._private.node import Node
    except ImportError:
        yield
        return
    left_out = {name: vars(Node)[name] for name in NOT_NEEDED if name in vars(Node)}
    for name in left_out:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in left_out.items():
            setattr(Node, name, method)


def _start_nothing(*_: object, **__: object) -> None:
    pass
