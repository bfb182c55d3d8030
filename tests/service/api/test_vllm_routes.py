"""vLLM's real routes against the table: a route that an upgrade brings is not served unnoticed."""

import pytest
from starlette.routing import BaseRoute

from service.api.access import TABLE, Access, AccessTable

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def routes() -> list[BaseRoute]:
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args(["--model", "x", "--enable-scale-out"])
    return list(build_app(args, ("generate",)).routes)


def paths(routes: list[BaseRoute]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for route in routes:
        methods = getattr(route, "methods", None) or {"GET"}
        found.setdefault(getattr(route, "path", ""), set()).update(methods)
    return found


def test_every_route_is_in_the_table(routes):
    table = AccessTable()
    unknown = [path for path in paths(routes) if table.find(path).access is Access.UNKNOWN]
    assert not unknown, f"say in service/api/access.py who may call {unknown}"


def test_every_method_of_an_open_route_is_meant(routes):
    table = AccessTable()
    for path, methods in paths(routes).items():
        route = table.find(path)
        if route.access is not Access.CLOSED:
            assert methods - {"HEAD"} <= route.methods, path


def test_every_generating_route_is_vllms(routes):
    ours = {route.template for route in TABLE if route.access is Access.GENERATE}
    assert ours <= set(paths(routes))


def test_table_templates_find_themselves(routes):
    table = AccessTable()
    for route in TABLE:
        assert table.find(route.template).access is route.access
