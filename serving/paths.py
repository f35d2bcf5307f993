"""Paths that probes and scrapers ask: without a key, and without a line in the log."""

# `/healthz` and `/health` are what most proxies ask, `/v2/health/…` is KServe's.
LIVE = ("/livez", "/healthz", "/health", "/v2/health/live")
READY = ("/readyz", "/v2/health/ready")
METRICS = "/metrics"
FOR_MACHINES = frozenset((*LIVE, *READY, METRICS))
