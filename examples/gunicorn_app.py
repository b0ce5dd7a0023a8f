"""gunicorn: a request multiplies matrices; the model is fitted when the module is imported: with --preload, before the fork.

    cd examples
    OMP_PROC_BIND=close knlfix run gunicorn --preload --workers 2 gunicorn_app:app
    python3 gunicorn_app.py 2 http://127.0.0.1:8000        # in another terminal: so many requests at a time

Needs gunicorn, numpy and scikit-learn.
"""

import concurrent.futures
import json
import sys
import urllib.request

import workers


def app(environ, start_response):
    """Answers /?SEED with the result of that task, as JSON."""
    body = json.dumps(workers.task(int(environ["QUERY_STRING"]))).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def ask(seed):
    with urllib.request.urlopen(f"{sys.argv[2]}/?{seed}") as answer:
        return tuple(json.load(answer))


if __name__ == "__main__":
    count = int(sys.argv[1])
    with concurrent.futures.ThreadPoolExecutor(count) as requests:
        workers.tell(list(requests.map(ask, range(count * workers.TASKS_PER_WORKER))))
else:
    workers.fit()
