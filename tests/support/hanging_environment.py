"""An environment that raises an error once, and whose process then does not end."""

from __future__ import annotations

import threading
import time

from tests.support.troublesome import OnceTroubled


class OnceUnending(OnceTroubled):
    def run_into_trouble(self) -> None:
        threading.Thread(target=time.sleep, args=(3600,)).start()  # no daemon: Python waits for it
        raise RuntimeError("the physics blew up")
