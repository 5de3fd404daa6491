"""The simulated providers of mail and texts, with everybody's mailboxes and phones behind them.

They speak SendGrid's `POST /v3/mail/send` and Twilio's `POST …/Messages.json`, with the documented
limits and errors, deliver what they accept to themselves, and tell the product of it as the real
ones do: `GET /inbox` shows the mails as people would see them, `GET /texts` the texts.

Beside the providers' they have switches and views of their own:

    GET, POST, DELETE /faults      what goes wrong next, and what becomes of messages; see `Faults`
    GET /accepted                  one entry per accepted call: ids, indices, count, time
    GET /messages?to=&limit=&offset=   the mails, oldest first, substitutions made; `newest=1` turns
                                   them round
    GET /messages?parcel=&i=       those to one recipient of a parcel
    GET /sms?to=&parcel=&limit=&offset=   the texts, likewise
    DELETE /messages               forgets all mails and texts
    GET /told                      how far the product has been told: see `Told`
"""

from local.inbox.events import SigningKey, write_body
from local.inbox.fates import MailFates, TextFates
from local.inbox.faults import Fault, Faults, Limit, TextFaults
from local.inbox.mailboxes import Entry, Mail, Messages
from local.inbox.phones import Text, Texts
from local.inbox.postman import Told
from local.inbox.sendgrid import MAX_BODY
from local.inbox.service import Inbox, Options, read_messages, read_texts, running_inbox

__all__ = [
    "MAX_BODY",
    "Entry",
    "Fault",
    "Faults",
    "Inbox",
    "Limit",
    "Mail",
    "MailFates",
    "Messages",
    "Options",
    "SigningKey",
    "Text",
    "TextFates",
    "TextFaults",
    "Texts",
    "Told",
    "read_messages",
    "read_texts",
    "running_inbox",
    "write_body",
]
