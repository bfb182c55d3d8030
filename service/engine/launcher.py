"""Starting: vLLM's own server with the policy engine inside and the policy middleware outside.

The order is: refuse what is not proven, start the engine, check every rank, activate the policies,
wrap ``generate``, and only then listen. A server that is reachable is steered.
"""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import uvloop
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.utils.argparse_utils import FlexibleArgumentParser

from service.engine.engine import configure
from service.engine.json_logs import json_logs
from service.engine.processes import supervise
from service.engine.refusals import RefusedOptionError
from service.engine.serving import Announce, serve
from service.prepare import Prepared


def parse_arguments(prepared: Prepared, vllm_options: Sequence[str]) -> Namespace:
    """Return vLLM's arguments for a model and the user's own options.

    Raises:
        SystemExit: vLLM's parser does not know an option (it prints which).
        RefusedOptionError: An option is not proven with policies.
    """
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="trimtab serve"))
    settings = prepared.settings
    args: Any = parser.parse_args(
        [
            str(prepared.checkpoint),
            *("--host", settings.host, "--port", str(settings.port)),
            *vllm_options,
        ]
    )
    if (args.host, args.port) != (settings.host, settings.port):
        raise RefusedOptionError(
            "--host or --port among vLLM's options is refused: the address that was checked would "
            "not be the one that is bound; give them in full and before any '--'"
        )
    args.model = args.model_tag
    validate_parsed_serve_args(args)
    if args.served_model_name is None:
        args.served_model_name = [settings.model]
    configure(args, prepared.capacities, prepared.gates, settings.merge_layers)
    return args


def run(prepared: Prepared, vllm_options: Sequence[str], announce: Announce) -> None:
    """Serve until a signal ends it; ``announce`` gets a line once requests are answered.

    Raises:
        ServiceError, and what ``service.engine.boot_refusals`` names: It cannot, or had to end.
    """
    args = parse_arguments(prepared, vllm_options)
    with json_logs(args) if prepared.settings.log_format == "json" else nullcontext():
        bound = setup_server(args, reuse_port=False)
        if (args.api_server_count or 1) > 1:
            supervise(prepared, args, announce, bound)
        else:
            uvloop.run(serve(prepared, args, announce, bound))
