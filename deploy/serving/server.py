"""`headstart serve`: the application under uvicorn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deploy.serving.app import create_app
from deploy.serving.collecting import Collector, parse_share
from deploy.serving.hosts import AllowedHosts
from deploy.serving.limits import CollectLimits, Limits
from deploy.serving.listening import listen
from deploy.serving.metrics import Metrics
from deploy.serving.model_slot import ModelSlot
from tasks.errors import UsageError
from tasks.storage.repository import published_models
from tasks.workspace import Workspace, check_name

DEFAULT_PORT = 8000  # of the Open Inference Protocol's servers


def serve(
    workspace: Workspace,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    poll_s: float = 2.0,
    public_key: str | None = None,
    wait: bool = False,
    limits: Limits | None = None,
    allowed_hosts: Sequence[str] = (),
    collect: str | None = None,
    collect_limits: CollectLimits | None = None,
    show_training: bool = False,
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves the newest verified version of `name` until SIGINT or SIGTERM.

    Args:
        host: an address to listen on; the default can be reached from this machine alone.
        port: 0 takes a free one.
        poll_s: seconds between two looks for a new version.
        public_key: PEM file; versions that are not signed with its key are refused.
        wait: start without a model, not ready, and serve the first version when it is published.
        allowed_hosts: names by which it may be asked, beside those of loopback and `host`; each may be several, with
            commas between them.
        collect: the share of the images that are kept in the workspace, such as '1%'; None keeps none.
        collect_limits: what these images may take.
        show_training: let other machines see the training items that explanations name; this machine always does.
        on_start: told the server's URL once it listens.

    Raises:
        UsageError: there is no version that can be served, and `wait` is false; the port is taken; `collect` is no
            share, or the workspace can't be written for it.
        ConfigError: `public_key` can't be read.
    """
    metrics = Metrics()
    share = parse_share(collect) if collect else None
    slot = ModelSlot(
        workspace,
        check_name(name),
        public_key=public_key,
        observe_reload=lambda outcome: metrics.reloads.labels(outcome).inc(),
    )
    slot.refresh()
    if not slot.ready and not wait:
        raise UsageError(_nothing_to_serve(slot))
    names = [name for each in allowed_hosts for name in each.split(",")]
    collector = Collector(workspace, name, share, metrics, collect_limits) if share else None
    hosts = AllowedHosts(host, names)
    app = create_app(
        slot,
        limits=limits,
        metrics=metrics,
        poll_s=poll_s,
        hosts=hosts,
        collector=collector,
        show_training=show_training,
    )
    listen(app, host=host, port=port, on_start=on_start)


def _nothing_to_serve(slot: ModelSlot) -> str:
    if slot.refusals:
        lines = [f"  - version {r.version}: {'; '.join(r.reasons)}" for r in slot.refusals.values()]
        return f"no version of {slot.name!r} can be served:\n" + "\n".join(lines)
    published = published_models(slot.workspace)
    found = f"published there: {', '.join(published)}" if published else "nothing is published there yet"
    return (
        f"there is no model {slot.name!r} in the workspace {slot.workspace.url}; {found}. "
        "Publish one with `headstart retrain`, or give --wait to start without"
    )
