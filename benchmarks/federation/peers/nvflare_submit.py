"""Submits a job to a provisioned NVFLARE: ``nvflare_submit.py ADMIN_FOLDER USER JOB_FOLDER``."""

import sys
import time

from nvflare.fuel.flare_api.flare_api import new_secure_session


def main() -> None:
    """Wait until the server takes the job."""
    folder, user, job, sites = sys.argv[1:]
    session = new_secure_session(user, folder, timeout=60)
    until = time.time() + 120
    while len(session.get_system_info().client_info) < int(sites):
        if time.time() > until:
            raise SystemExit("not all sites registered")
        time.sleep(1)
    session.submit_job(job)
    session.close()


if __name__ == "__main__":
    main()
