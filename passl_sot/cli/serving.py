"""`tools/serve.py`: a server for one model."""

import argparse
from dataclasses import fields

from passl_sot.cli.command import command, guarded, make_parser, prepare
from passl_sot.cli.options import PRECISIONS
from passl_sot.config import zh
from passl_sot.launch.cpu_env import usable_threads
from passl_sot.serve.settings import Settings
from passl_sot.utils.require import check_extra

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@command
def serve(argv: list[str] | None = None) -> int:
    """`tools/serve.py`: serves a model over HTTP, with a page to try it by."""
    parser = make_parser("serve", "Serve a model over HTTP, with a page to try it by.", config=False)
    add = parser.add_argument
    add("source", metavar="MODEL", help="a checkpoint, an exported folder, or a published model's name")
    add(
        "--engine",
        default="paddle",
        metavar="NAME",
        help="what computes it: paddle (default), inference, onnxruntime, openvino, or auto, the fastest",
    )
    numbers = "numbers it computes in; default: the exported folder's own, f32 of a checkpoint"
    add("--precision", choices=PRECISIONS, help=numbers)
    add("--host", default=Settings.host, help="address to listen on; default: this machine alone")
    add("--port", type=int, default=Settings.port, help="default 8000; 0: any that is free")
    names = "a further name by which clients may call the server; by default the loopback's, elsewhere any"
    add("--allow-host", action="append", default=[], metavar="NAME", help=names)
    limits = [field for field in fields(Settings) if field.metadata]
    for field in limits:
        option = f"--{field.name.replace('_', '-')}"
        kind = type(field.default)
        add(
            option,
            type=kind,
            default=field.default,
            metavar="N",
            help=f"{field.metadata['help']} (%(default)g)",
        )
    args = parser.parse_args(argv)
    for field in limits:
        if not field.metadata["least"] <= getattr(args, field.name) < float("inf"):
            parser.error(f"--{field.name.replace('_', '-')} must be at least {field.metadata['least']}")
    if not args.host:  # as an unset variable leaves it: it would be every address
        parser.error("--host is empty: name an address; 0.0.0.0 is all of this machine's")
    if args.max_queue < args.max_files:
        parser.error(f"--max-queue must be at least --max-files ({args.max_files})")
    if not 0 <= args.port < 65536:
        parser.error("--port must be from 0 to 65535")
    prepare(args)

    def run() -> int:
        check_extra(_PACKAGES, "serve", "serving", zh("serve_missing"))
        from passl_sot.serve.run import serve as serve_until_told

        return serve_until_told(_settings(args), verbose=args.verbose)

    return guarded(run, paddle=args.workers == 1)


def _settings(args: argparse.Namespace) -> Settings:
    from passl_sot.published.fetch import is_loopback
    from passl_sot.published.store import local_weights
    from passl_sot.serve.guard import LOOPBACK

    hosts = tuple(name.lower() for name in args.allow_host)
    if is_loopback(args.host):
        hosts = (*LOOPBACK, args.host, *hosts)
    elif hosts:
        hosts = (*LOOPBACK, *hosts)
    # Each worker gets its part of the cores. But with "paddle" `predict` has one thread, and more would give
    # other last digits.
    threads = None
    if args.engine != "paddle":
        threads = max(1, usable_threads() // args.workers)
    limits = {field.name: getattr(args, field.name) for field in fields(Settings) if field.metadata}
    return Settings(
        source=str(local_weights(args.source)),
        arguments={"engine": args.engine, "precision": args.precision, "threads": threads},
        host=args.host,
        port=args.port,
        hosts=hosts,
        **limits,
    )
