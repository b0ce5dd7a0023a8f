"""For multiprocessing.set_forkserver_preload: brings the runtime up in the server, so that it forks its workers pinned."""

import probe

probe.bring_up()
