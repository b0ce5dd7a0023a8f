"""Celery: the tasks multiply matrices; the model is fitted when the module is imported, so before the workers are forked.

    export QUEUE=/tmp/queue            # a directory, instead of a broker
    cd examples
    OMP_PROC_BIND=close knlfix run celery -A celery_app worker --concurrency 2
    python3 celery_app.py 2            # in another terminal: sends the tasks

Needs celery, numpy and scikit-learn.
"""

import os
import pathlib
import sys

from celery import Celery, group

import workers

QUEUE = pathlib.Path(os.environ.get("QUEUE", "/tmp/queue"))
FOLDERS = {"data_folder_in": QUEUE / "tasks", "data_folder_out": QUEUE / "tasks", "control_folder": QUEUE / "control"}
RESULTS = QUEUE / "results"
for folder in (*FOLDERS.values(), RESULTS):
    folder.mkdir(parents=True, exist_ok=True)

app = Celery("celery_app", broker="filesystem://", backend=RESULTS.as_uri())
app.conf.broker_transport_options = {name: str(folder) for name, folder in FOLDERS.items()}
# One task at a time for each worker, so that no worker sits on those that others could do.
app.conf.worker_prefetch_multiplier = 1


@app.task
def multiply(seed):
    return workers.task(seed)


if __name__ == "__main__":
    tasks = group(multiply.s(seed) for seed in range(int(sys.argv[1]) * workers.TASKS_PER_WORKER))
    workers.tell([tuple(result) for result in tasks().get(timeout=100)])
else:
    workers.fit()
