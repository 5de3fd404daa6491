"""`python -m local.inbox`; prints `{"url": …, "webhook_key": …}` when it is ready."""

from __future__ import annotations

import argparse
import asyncio

from local import inbox
from local.serving import add_serving_arguments, serve


def main() -> None:
    """Serve until told to end. `webhook_key` is the public one of the events."""
    parser = argparse.ArgumentParser(
        prog="python -m local.inbox", description=(inbox.__doc__ or "").partition("\n")[0]
    )
    defaults = inbox.Options()
    add_serving_arguments(parser)
    add = parser.add_argument
    add("--api-key", help="SendGrid's, the one key that is taken; any is, without it")
    add("--events-url", help="where to tell what becomes of mails; nobody is told, without it")
    add("--zone", default=defaults.zone, help="in which the pages show times (UTC)")
    add("--home", action="store_true", help="a home page passes the pages on: link to it")
    given = parser.parse_args()
    service = inbox.Inbox(
        inbox.Options(
            api_key=given.api_key,
            events_url=given.events_url,
            clock_file=given.clock_file,
            zone=given.zone,
            home=given.home,
        )
    )
    asyncio.run(
        serve(
            service.application(),
            port=given.port,
            leash=given.leash,
            webhook_key=service.signing_key.public,
        )
    )


if __name__ == "__main__":
    main()
