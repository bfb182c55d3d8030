"""Workers: vLLM's own with the policy runner, on CPU and CUDA.

The runner is swapped by changing its class once vLLM has made it, so no constructor of vLLM's is
copied. Only the V1 runner is proven; any other is refused by name.
"""

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from service.engine import bootcheck
from service.engine.channel import ScoreSender
from service.engine.orphan import end_with_parent
from service.engine.runner import PolicyRunner
from service.engine.seeded import SeededRunner
from service.engine.waiting import wait_in_place
from service.engine.wire import TableUpdate, table_digest


class RunnerError(RuntimeError):
    """The model runner is not one that policies are proven on."""


class _PolicyWorker:
    """What both workers add: the runner's class, and the calls that the launcher makes."""

    model_runner: Any
    rank: int
    runner_mixins: tuple[type, ...] = (PolicyRunner,)

    def init_device(self) -> None:
        """Make the runner, then give it sites."""
        end_with_parent()
        wait_in_place()
        super().init_device()  # type: ignore[misc]
        runner = self.model_runner
        base: type = type(runner)
        if not issubclass(base, GPUModelRunner):
            raise RunnerError(
                f"{base.__module__}.{base.__name__} is not the V1 model runner, "
                "the only one that policies are proven on; unset what selects another"
            )
        runner.__class__ = type(f"Policy{base.__name__}", (*self.runner_mixins, base), {})
        runner.prepare_tables()

    def trimtab_update(self, blob: bytes, rows: dict[str, str], reads: dict[str, str]) -> str:
        """Write tables; returns the digest of this rank's rows and watched reads."""
        held, watched = ({int(i): key for i, key in table.items()} for table in (rows, reads))
        return self.model_runner.apply_update(TableUpdate.parse(bytes(blob), held, watched))

    def trimtab_digest(self) -> str:
        """Return the digest of this rank's rows and watched reads."""
        return table_digest(self.model_runner.row_contents, self.model_runner.read_contents)

    def trimtab_open_channel(self, address: str, max_messages: int, process: int = 0) -> bool:
        """Send the scores of an API process's requests to ``address`` from now on.

        Every rank has them, the first one sends.
        """
        if self.rank:
            return False
        self.model_runner.tap.open(ScoreSender(address, max_messages).send, process)
        return True

    def trimtab_merge_report(self) -> dict[str, Any]:
        """Check the projections that may be merged into; see ``service.engine.merging``."""
        return self.model_runner.merged.report()

    def trimtab_merge(self, layer: int, blob: bytes) -> dict[str, str]:
        """Hold a layer's weights at golden plus the factors in ``blob``, at golden if it is b''."""
        return self.model_runner.merged.write(layer, bytes(blob))

    def trimtab_weight_digests(self) -> dict[str, str]:
        """Return the sha256 of the bytes that each layer that may be merged into holds."""
        return self.model_runner.merged.digests()

    def trimtab_boot_check(self) -> dict[str, Any]:
        """Check this rank's sites; see ``service.engine.bootcheck``."""
        return bootcheck.check_rank(self.model_runner)


class CPUPolicyWorker(_PolicyWorker, CPUWorker):
    """The worker on CPUs."""

    runner_mixins = (PolicyRunner, SeededRunner)


class CUDAPolicyWorker(_PolicyWorker, Worker):
    """The worker on CUDA GPUs."""
