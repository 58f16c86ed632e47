"""`python -m deploy.serving NAME`: the server alone, for an image that holds no more than serving needs."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from deploy.serving.limits import CollectLimits
from deploy.serving.server import DEFAULT_PORT, serve
from tasks.errors import HeadstartError
from tasks.workspace import Workspace


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.serving", description=__doc__)
    parser.add_argument("name", help="the model's name")
    parser.add_argument("--workspace", default=os.environ.get("HEADSTART_WORKSPACE", "./workspace"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--poll-s", type=float, default=2.0, help="seconds between two looks for a new version")
    parser.add_argument(
        "--public-key",
        default=os.environ.get("HEADSTART_PUBLIC_KEY"),
        help="PEM file of the key that versions must be signed with",
    )
    parser.add_argument(
        "--allowed-hosts",
        action="append",
        default=[],
        metavar="NAMES",
        help="names by which it may be asked, with commas, beside those of loopback and --host; '*' for any",
    )
    parser.add_argument(
        "--collect", metavar="SHARE", help="keep a share of the images in the workspace's inbox/, such as 1%%"
    )
    bounds = CollectLimits()
    for option, kind, bound, what in (
        ("--collect-images", int, bounds.max_images, "images that are kept at most"),
        ("--collect-mb", float, bounds.max_mb, "megabytes that they take at most"),
        ("--collect-days", float, bounds.days, "days after which an image is removed"),
    ):
        parser.add_argument(option, type=kind, default=bound, metavar="N", help=f"{what} (default: %(default)s)")
    parser.add_argument(
        "--show-training",
        action="store_true",
        help="let other machines see the training items that explanations name",
    )
    parser.add_argument("--wait", action="store_true", help="start before the first version is published")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        serve(
            Workspace(options.workspace),
            options.name,
            host=options.host,
            port=options.port,
            poll_s=options.poll_s,
            public_key=options.public_key,
            wait=options.wait,
            allowed_hosts=options.allowed_hosts,
            collect=options.collect,
            collect_limits=CollectLimits(
                max_images=options.collect_images, max_mb=options.collect_mb, days=options.collect_days
            ),
            show_training=options.show_training,
            on_start=lambda url: print(f"serving on {url}", file=sys.stderr, flush=True),
        )
    except HeadstartError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
