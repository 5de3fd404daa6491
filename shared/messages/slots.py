"""What a line of words may name in braces and a campaign has a value for: names, dates, addresses,
each as it is written in one language."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from babel.dates import format_date, format_time, get_timezone_location

from shared.messages.lines import Link, Name, Slot
from shared.messages.words import Words
from shared.rules.campaign import Campaign

SECURITY_INFO: Final = "https://mysignins.microsoft.com/security-info"
"""Where every account registers its methods; short enough to be typed."""


def general_slots(words: Words) -> dict[str, Slot]:
    """The values that are the same for every campaign."""
    return {
        "security_info": web_link(SECURITY_INFO),
        "china_stores": web_link(words.china_stores),
    }


def campaign_slots(campaign: Campaign, words: Words, language: str) -> dict[str, Slot]:
    """The values of a campaign, and those that are the same for every one."""
    institution = campaign.institution
    day = format_date(campaign.last_day, "long", locale=words.locale)
    enforced_on = format_date(campaign.enforced_on, "long", locale=words.locale)
    city = _city(campaign.zone, words)
    return general_slots(words) | {
        "institution": Name(_in_language(institution.name, language)),
        "password_name": Name(_in_language(institution.password_name, language)),
        "account_example": institution.account_example,
        "last_day": day,
        "deadline": _deadline(campaign, words, day, city),
        "enforced_on": enforced_on,
        "enforcement": words.start_of_day.format(day=enforced_on, city=city),
        "official_page": web_link(institution.official_page),
        "general_procedure": web_link(institution.general_procedure_url),
        "account_help": web_link(institution.account_help_url),
        "help_desk": Link(institution.help_desk, f"mailto:{institution.help_desk}"),
    }


def web_link(address: str) -> Link:
    """A link that shows where it leads."""
    return Link(address, address)


def sms_slots(campaign: Campaign, words: Words, language: str) -> dict[str, Slot]:
    """The values of a campaign that an SMS names: the institution's short name, and the deadline
    with its zone and without."""
    institution = campaign.institution
    day = format_date(campaign.last_day, "long", locale=words.locale)
    city = _city(campaign.zone, words)
    if time := _time_of_day(campaign, words):
        deadline = words.time_of_day.format(time=time, day=day, city=city)
        deadline_day = words.sms.time_of_day.format(time=time, day=day)
    else:
        deadline, deadline_day = words.sms.day.format(day=day, city=city), day
    return {
        "institution": _in_language({**institution.name, **institution.short_name}, language),
        "look_for": _in_language(institution.look_for, language),
        "deadline": deadline,
        "deadline_day": deadline_day,
        "enforced_on": format_date(campaign.enforced_on, "long", locale=words.locale),
    }


def _deadline(campaign: Campaign, words: Words, day: str, city: str) -> str:
    """The end of a day in words, or the time of day where the campaign file gives one."""
    if time := _time_of_day(campaign, words):
        return words.time_of_day.format(time=time, day=day, city=city)
    return words.end_of_day.format(day=day, city=city)


def _time_of_day(campaign: Campaign, words: Words) -> str:
    """The deadline's, or "" where it is the end of a day."""
    if not isinstance(campaign.deadline, datetime):
        return ""
    local = campaign.deadline.astimezone(campaign.zone)
    return format_time(local.time(), "short", locale=words.locale)


def _city(zone: ZoneInfo, words: Words) -> str:
    """The place that a zone is named after: "Hong Kong" for Asia/Hong_Kong."""
    place = get_timezone_location(zone, locale=words.locale, return_city=True)
    return place.rpartition("/")[2]


def _in_language(names: Mapping[str, str], language: str) -> str:
    """The institution's own word in `language`, or in English where it has none."""
    return names.get(language) or names["en"]
