"""A server in a process of its own that ends with ours, however ours ends; asked by lines of JSON over its pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from streams.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Listen:
    """Where a stand-in listens: port 0 is any that is free. Beyond the loopback whoever reaches it may use it."""

    host: str = "127.0.0.1"
    port: int = 0

    def variables(self) -> dict[str, str]:
        """For the process that listens; `Listen.said` reads them there."""
        return {"STAND_IN_LISTEN": f"{self.host} {self.port}"}

    @classmethod
    def said(cls) -> Listen:
        """What the environment says."""
        host, port = os.environ["STAND_IN_LISTEN"].split()
        return cls(host, int(port))


LOOPBACK: Final = Listen()


class Child:
    """The process, while the context lasts. Its log is ``server.log`` in the folder.

    Args:
        module: run by ``python -m``; it calls `answer`.
        folder: given to it as its argument; made if it is not there.
        environment: added to ours.

    Attributes:
        said: what it said when it was ready.

    Raises:
        FatalError: ``STAND_IN_FAILED``, with the end of its log.
    """

    def __init__(self, module: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.module, self.folder, self._environment = module, folder, dict(environment or {})
        self.said: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None
        self._asking = threading.Lock()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | self._environment,
                # Ctrl-C at the terminal is for its owner, who may have something to say to it before it ends.
                start_new_session=True,
            )
        try:
            self.said = self._answer()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def ask(self, command: str, **said: Any) -> Any:
        """Have it do something; what its function gave.

        Raises:
            FatalError: ``STAND_IN_FAILED``: it raised, or is gone.
        """
        with self._asking:
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([command, said]) + "\n")
            self._process.stdin.flush()
            answer = self._answer()
        if "error" in answer:
            raise FatalError("STAND_IN_FAILED", f"{self.module} failed to {command}: {answer['error']}")
        return answer["result"]

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            shown = (self.folder / "server.log").read_text(errors="replace").splitlines()[-12:]
            raise FatalError("STAND_IN_FAILED", f"{self.module} ended by itself.", way_out="\n".join(shown))
        return dict(json.loads(line))

    def close(self) -> None:
        """End it: its pipe breaks, it cleans up."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def answer(ready: Mapping[str, Any], commands: Mapping[str, Callable[..., Any]]) -> None:
    """The child's side: say that it is ready, then answer until the parent is gone."""
    # What libraries print goes to the log; the pipe is for answers.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(ready), file=pipe, flush=True)
    for line in sys.stdin:
        command, said = json.loads(line)
        try:
            reply = {"result": commands[command](**said)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=pipe, flush=True)
