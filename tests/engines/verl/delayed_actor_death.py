"""Kills a Ray actor in the middle of a call while Ray's control service is suspended; notes the caller's error.

    python delayed_actor_death.py FILE

Into a file: Ray's threads print to this process's output as they like, in the middle of a line too. The node is one of
ray_node.py, started by the parent process.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import ray


@ray.remote
class Actor:
    def pid(self):
        return os.getpid()

    def work(self):
        time.sleep(600)


if __name__ == "__main__":
    ray.init(log_to_driver=False)
    actor = Actor.remote()
    pid = ray.get(actor.pid.remote())
    children = psutil.Process().parent().children(recursive=True)
    (service,) = (child for child in children if child.name() == "gcs_server")  # which reports deaths
    answer = actor.work.remote()
    time.sleep(1)
    service.suspend()
    os.kill(pid, signal.SIGKILL)
    threading.Timer(4, service.resume).start()
    try:
        ray.get(answer)
    except Exception as error:
        Path(sys.argv[1]).write_text(type(error).__name__)
