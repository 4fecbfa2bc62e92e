"""The dashboards; `python -m tests.tools.dashboards.boards` writes their JSON for Grafana."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tools.dashboards.grafana import Board, Panel, dashboard

FOLDER = Path(__file__).parents[3] / "infra/grafana/dashboards"


def _quantiles(metric: str, where: str = "") -> dict[str, str]:
    chosen = f"NS, {where}" if where else "NS"
    return {
        name: f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{chosen}}}[$window])))"
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


def _slowest(metric: str, by: str) -> dict[str, str]:
    return {
        f"{{{{{by}}}}}": f"histogram_quantile(0.95, sum by (le, {by}) (rate({metric}_bucket{{NS}}[$window])))"
    }


def _per_second(metric: str, by: str, where: str = "") -> dict[str, str]:
    chosen = f"NS, {where}" if where else "NS"
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({metric}{{{chosen}}}[$window]))"}


def _standing(name: str) -> dict[str, str]:
    return {name: f'max(ekabridge_ledger_sessions{{NS, standing="{name}"}})'}


_TO_CHART = Panel(
    "End of dictation to chart",
    "From the end of a session until the EMR accepted the document. What the doctor waits for.",
    "s",
    _quantiles("ekabridge_end_to_chart_seconds"),
)
_TO_DOCUMENT = Panel(
    "End of dictation to document",
    "From the end of a session until its document is stored: mostly EkaScribe's own time.",
    "s",
    _quantiles("ekabridge_end_to_document_seconds"),
)
_MEMORY = Panel(
    "Memory",
    "Resident memory of each process.",
    "bytes",
    {"{{instance}}": 'process_resident_memory_bytes{NS, job=~"ekabridge-(service|worker)"}'},
)
_CPU = Panel(
    "CPU",
    "Cores that each process uses; one is all that a process can use.",
    "short",
    {"{{instance}}": 'rate(process_cpu_seconds_total{NS, job=~"ekabridge-(service|worker)"}[$window])'},
)

OVERVIEW = Board(
    "overview",
    "ekabridge: overview",
    "Is every dictation on its way, how long does it take, and does anything fall behind?",
    {
        "Ledger": [
            Panel(
                "Lost",
                "In flight, and nothing would ever move them. Always 0: else see the runbook at once.",
                "short",
                _standing("lost"),
                width=4,
                is_stat=True,
                red_from=1,
            ),
            Panel(
                "Dead",
                "Sessions with a delivery that is not tried any more.",
                "short",
                _standing("dead"),
                width=4,
                is_stat=True,
                red_from=1,
            ),
            Panel(
                "In flight",
                "Ended, and not yet with the hospital.",
                "short",
                _standing("in_flight"),
                width=4,
                is_stat=True,
            ),
            Panel(
                "Delivered",
                "Every document and event was accepted.",
                "short",
                _standing("delivered"),
                width=4,
                is_stat=True,
            ),
            Panel(
                "Ended",
                "Delivered, in flight and dead together.",
                "short",
                _standing("ended"),
                width=4,
                is_stat=True,
            ),
            Panel(
                "Versions",
                "How many processes run of each version; one version, but for a rollout.",
                "short",
                {"{{process}} {{version}}": "count by (process, version) (ekabridge_build_info{NS})"},
                width=4,
                is_stat=True,
            ),
        ],
        "Dictations": [
            _TO_CHART,
            _TO_DOCUMENT,
            Panel(
                "Sessions begun",
                "By how their audio comes.",
                "ops",
                _per_second("ekabridge_sessions_total", "upload"),
            ),
            Panel(
                "Sessions ended",
                "By how they ended.",
                "ops",
                _per_second("ekabridge_sessions_settled_total", "status"),
            ),
        ],
        "Calls": [
            Panel(
                "Answers",
                "Calls answered, by status.",
                "reqps",
                _per_second("ekabridge_http_requests_total", "status", 'route!~"/health/.*|/metrics"'),
                is_stacked=True,
            ),
            Panel(
                "Slow calls",
                "95th percentile of calls that change something, by route.",
                "s",
                {
                    "{{method}} {{route}}": (
                        "histogram_quantile(0.95, sum by (le, method, route) ("
                        'rate(ekabridge_http_request_duration_seconds_bucket{NS, method!="GET"}[$window])))'
                    )
                },
            ),
            Panel(
                "Refused",
                "Calls told to come again, by what there was too much of, and what never became a call.",
                "reqps",
                {
                    "{{kind}}: {{reason}}": (
                        "sum by (kind, reason) (rate(ekabridge_requests_refused_total{NS}[$window]))"
                    ),
                    "429: {{of}}": "sum by (of) (rate(ekabridge_rate_limited_total{NS}[$window]))",
                    "{{code}}": "sum by (code) (rate(ekabridge_http_refused_total{NS}[$window]))",
                },
            ),
            Panel(
                "In work",
                "Calls that are being answered, by kind.",
                "short",
                {"{{kind}}": "sum by (kind) (ekabridge_requests_in_work{NS})"},
                is_stacked=True,
            ),
        ],
        "Work behind the doors": [
            Panel(
                "Due",
                "Rows that are due now. They should be few, or soon be fewer.",
                "short",
                {"{{queue}}": "max by (queue) (ekabridge_queue_depth{NS})"},
            ),
            Panel(
                "The oldest that is due",
                "For how long it has been due.",
                "s",
                {"{{queue}}": "max by (queue) (ekabridge_queue_oldest_seconds{NS})"},
            ),
            Panel(
                "Lanes",
                "How full the workers are: jobs, of all that they do at once.",
                "percentunit",
                {
                    "{{lane}}": (
                        "sum by (lane) (ekabridge_lane_jobs{NS})"
                        " / sum by (lane) (ekabridge_lane_capacity{NS})"
                    )
                },
                top=1,
            ),
            Panel(
                "Last sweep",
                "Seconds since the sweep beat. Restarted by its liveness probe after a minute.",
                "s",
                {"since": "time() - (max(ekabridge_sweep_beat_timestamp_seconds{NS}) > 0)"},
                top=60,
            ),
        ],
        "Neighbours and processes": [
            Panel(
                "Database connections",
                "Of all processes' pools.",
                "short",
                {"{{state}}": "sum by (state) (ekabridge_database_connections{NS})"},
                is_stacked=True,
            ),
            Panel(
                "Waiting for a database connection",
                "Until the pool gave one.",
                "s",
                _quantiles("ekabridge_database_wait_seconds"),
            ),
            Panel(
                "Redis",
                "Processes that reach it, and processes that count calls by themselves as they do not.",
                "short",
                {
                    "reach it": "sum(ekabridge_redis_up{NS})",
                    "without it": "sum(ekabridge_rate_limit_without_redis{NS})",
                },
            ),
            Panel(
                "Clocks",
                "By how much each process's is off; from 5 s on an alert.",
                "s",
                {"{{instance}}": "max by (instance) (ekabridge_clock_offset_seconds{NS})"},
            ),
            Panel(
                "Nudges dropped",
                "The sweep finds what they were about.",
                "ops",
                {"dropped": "sum(rate(ekabridge_nudges_dropped_total{NS}[$window]))"},
            ),
            _MEMORY,
            _CPU,
        ],
    },
)

VENDOR = Board(
    "vendor",
    "ekabridge: EkaScribe",
    "Does EkaScribe answer, does it tell us what is done, and do we get the results?",
    {
        "Calls to EkaScribe": [
            Panel(
                "Calls",
                "By how they ended; gate_closed and line_full were not made.",
                "reqps",
                _per_second("ekabridge_vendor_calls_total", "outcome"),
                is_stacked=True,
            ),
            Panel(
                "Calls by kind",
                "What they were about.",
                "reqps",
                _per_second("ekabridge_vendor_calls_total", "operation"),
                is_stacked=True,
            ),
            Panel(
                "Failures",
                "Part of the calls made that failed, timed out or found nobody.",
                "percentunit",
                {
                    "failed": (
                        'sum(rate(ekabridge_vendor_calls_total{NS, outcome=~"failed|timeout|unreachable"}'
                        "[$window]))"
                        " / sum(rate(ekabridge_vendor_calls_total"
                        '{NS, outcome!~"abandoned|gate_closed|line_full"}[$window]))'
                    )
                },
                top=1,
            ),
            Panel(
                "Slow calls",
                "95th percentile by kind.",
                "s",
                _slowest("ekabridge_vendor_call_duration_seconds", "operation"),
            ),
            Panel(
                "Circuits open",
                "Of all processes: while a circuit breaker is open, its account's calls are not made.",
                "short",
                {"{{account}}": "sum by (account) (ekabridge_vendor_circuits_open{NS})"},
            ),
            Panel(
                "Audio handed over",
                "Bytes of chunks that EkaScribe took, or that are held for it.",
                "Bps",
                {"audio": "sum(rate(ekabridge_audio_bytes_total{NS}[$window]))"},
            ),
        ],
        "Audio": [
            Panel(
                "Chunks",
                "By what became of them.",
                "ops",
                _per_second("ekabridge_audio_chunks_total", "outcome"),
                is_stacked=True,
            ),
            Panel(
                "Audio on disk",
                "Part of the disk that it may take; at the limit uploads are told to come again.",
                "percentunit",
                {"{{instance}}": "ekabridge_spool_bytes{NS} / ekabridge_spool_limit_bytes{NS}"},
            ),
        ],
        "Held audio": [
            Panel(
                "Held audio",
                "Audio in our database: held for EkaScribe, or kept after its session ended badly.",
                "bytes",
                {"{{state}}": "max by (state) (ekabridge_held_audio_bytes{NS})"},
                is_stacked=True,
            ),
            Panel(
                "Oldest held audio",
                "For how long the session that waits longest has waited for EkaScribe.",
                "s",
                {"{{call}}": "max by (call) (ekabridge_held_audio_oldest_seconds{NS})"},
            ),
            Panel(
                "Chunks held and handed over",
                "Chunks that EkaScribe did not take at once, and what it answered later.",
                "ops",
                {
                    "held": "sum(rate(ekabridge_audio_held_total{NS}[$window]))",
                    "handed over, {{outcome}}": (
                        "sum by (outcome) (rate(ekabridge_audio_handed_over_total{NS}[$window]))"
                    ),
                },
            ),
        ],
        "Webhooks and results": [
            Panel(
                "Webhooks",
                "By what became of them; refused are those with a wrong signature.",
                "reqps",
                _per_second("ekabridge_webhooks_total", "outcome"),
            ),
            Panel(
                "Fetches",
                "Results that were asked for, by what came.",
                "ops",
                _per_second("ekabridge_fetches_total", "outcome"),
            ),
            _TO_DOCUMENT,
            Panel(
                "Owed and due",
                "Fetches, and calls that EkaScribe is owed, that are due now.",
                "short",
                {"{{queue}}": ('max by (queue) (ekabridge_queue_depth{NS, queue!="deliveries"})')},
            ),
        ],
    },
)

DELIVERIES = Board(
    "deliveries",
    "ekabridge: deliveries",
    "Do documents reach the hospitals, and if not, why?",
    {
        "Attempts": [
            Panel(
                "Attempts",
                "By what became of them.",
                "ops",
                _per_second("ekabridge_delivery_attempts_total", "outcome"),
                is_stacked=True,
            ),
            Panel(
                "Attempts by type",
                "What was told.",
                "ops",
                _per_second("ekabridge_delivery_attempts_total", "type"),
                is_stacked=True,
            ),
            Panel(
                "Taken at once",
                "Part of the attempts that the hospital took.",
                "percentunit",
                {
                    "taken": (
                        'sum(rate(ekabridge_delivery_attempts_total{NS, outcome=~"delivered|filed"}'
                        "[$window]))"
                        " / sum(rate(ekabridge_delivery_attempts_total{NS}[$window]))"
                    )
                },
                top=1,
            ),
            Panel(
                "How long the endpoints take",
                "From our connecting to their answer.",
                "s",
                _quantiles("ekabridge_delivery_duration_seconds"),
            ),
        ],
        "What waits and what is dead": [
            Panel(
                "Due",
                "Deliveries whose time has come.",
                "short",
                {"deliveries": 'max(ekabridge_queue_depth{NS, queue="deliveries"})'},
            ),
            Panel(
                "The oldest that is due",
                "For how long it has been due.",
                "s",
                {"deliveries": 'max(ekabridge_queue_oldest_seconds{NS, queue="deliveries"})'},
            ),
            Panel(
                "Died",
                "Deliveries that are not tried any more, by why. `ekabridge delivery retry` sends one again.",
                "ops",
                _per_second("ekabridge_deliveries_dead_total", "reason_class"),
            ),
            Panel(
                "Sessions with a dead delivery",
                "By the ledger.",
                "short",
                _standing("dead"),
            ),
        ],
        "The way into the chart": [
            _TO_CHART,
            Panel(
                "Leases in force",
                "What processes hold at this moment, by kind.",
                "short",
                {"{{kind}}": "max by (kind) (ekabridge_leases{NS})"},
            ),
        ],
    },
)

STREAMS = Board(
    "streams",
    "ekabridge: live streams",
    "Is anybody dictating live, does it flow, and how do streams end?",
    {
        "Streams": [
            Panel(
                "Open", "Streams that are relayed now.", "short", {"open": "sum(ekabridge_streams_open{NS})"}
            ),
            Panel(
                "Closed",
                "By close code: 1000 is well, 1012 our rollout, 1014 EkaScribe's break, 1011 ours.",
                "ops",
                _per_second("ekabridge_stream_closes_total", "code"),
                is_stacked=True,
            ),
            Panel(
                "Frames",
                "Passed on, by direction.",
                "ops",
                _per_second("ekabridge_stream_frames_total", "direction"),
            ),
            Panel(
                "Bytes",
                "Passed on, by direction.",
                "Bps",
                _per_second("ekabridge_stream_bytes_total", "direction"),
            ),
            Panel(
                "Streamed sessions begun",
                "Sessions created with `upload: stream`.",
                "ops",
                {"begun": 'sum(rate(ekabridge_sessions_total{NS, upload="stream"}[$window]))'},
            ),
            Panel(
                "Opening a stream at EkaScribe",
                "Until its socket was open.",
                "s",
                _quantiles("ekabridge_vendor_call_duration_seconds", 'operation="stream"'),
            ),
        ],
        "Processes": [_MEMORY, _CPU],
    },
)

BOARDS = [OVERVIEW, VENDOR, DELIVERIES, STREAMS]


def written(board: Board) -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(board), indent=2) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for each in BOARDS:
        (FOLDER / f"{each.name}.json").write_text(written(each))
