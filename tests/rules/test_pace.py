"""The pace: what may leave by when, as tables, and what holds whatever the figures."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import CampaignTime, StorageTime
from shared.rules.campaign import Allowed, Campaign, Canary, Sending, WarmUp, Window, parse_campaign
from shared.rules.contact import usable_email
from shared.rules.pace import (
    Bucket,
    CanaryResult,
    admit,
    canary_share,
    day_limit,
    domain_of,
    find_idle_days,
    finish_day,
    judge_canary,
    parcel_size,
    refill,
)
from shared.rules.parcels import SHARDS, Channel, Parcel, State

EXAMPLE = parse_campaign(
    (Path(__file__).parents[2] / "campaign.example.yaml").read_text(),
    file="campaign.example.yaml",
    allowed=Allowed(
        senders=frozenset(), link_hosts=frozenset(), local=True, channels=frozenset({"email"})
    ),
)
"""Hong Kong; Monday to Friday, 09:00 to 18:00; no limits."""

INFINITE = float("inf")
NOON = StorageTime(datetime(2027, 3, 17, 4, tzinfo=UTC))


def after(seconds: float) -> StorageTime:
    return StorageTime(NOON + timedelta(seconds=seconds))


# Tokens of an hour


FILLED: list[tuple[str, float | None, float, int, float]] = [
    # when, tokens at noon (None: nothing was ever taken), seconds since, per hour, tokens now
    ("at first it is full, with a twelfth of an hour", None, 0, 1200, 100),
    ("empty", 0, 0, 1200, 0),
    ("a minute later", 0, 60, 1200, 20),
    ("a minute more", 20, 60, 1200, 40),
    ("after a quiet night, a twelfth all the same", 0, 40_000, 1200, 100),
    ("the limit has been lowered", 100, 0, 120, 10),
    ("so few an hour that one is the least", None, 0, 5, 1),
    ("and it takes its time", 0, 360, 5, 0.5),
]


@pytest.mark.parametrize(
    ("tokens", "seconds", "per_hour", "now"), [pytest.param(*rest, id=w) for w, *rest in FILLED]
)
def test_a_bucket_fills_evenly_up_to_a_twelfth_of_an_hour(
    tokens: float | None, seconds: float, per_hour: int, now: float
) -> None:
    bucket = None if tokens is None else Bucket(tokens, NOON)
    assert refill(bucket, after(seconds), per_hour) == now


@given(
    per_hour=st.integers(1, 1_000_000),
    ticks=st.lists(st.tuples(st.integers(0, 7200), st.floats(0, 1)), max_size=50),
)
def test_no_hour_gives_more_than_its_limit_and_a_full_bucket(
    per_hour: int, ticks: list[tuple[int, float]]
) -> None:
    now, taken, bucket = 0, 0.0, None
    for seconds, share in ticks:
        now += seconds
        tokens = refill(bucket, after(now), per_hour)
        taken += tokens * share
        bucket = Bucket(tokens * (1 - share), after(now))
    full = max(1, per_hour / 12)
    assert taken <= (full + per_hour * now / 3600) * (1 + 1e-9)


# Limits of a day


def sending(**pace: Any) -> Sending:
    return Sending.model_validate(pace)


WARM: dict[str, Any] = {"start": 500, "growth": 1.5}
TODAY = date(2027, 3, 17)

LIMITS: list[tuple[str, dict[str, Any], Channel, list[str], int | None]] = [
    # when, the file, channel, live days, most recipients today
    ("none is given", {}, "email", [], None),
    ("of another channel", {"max_per_day": {"sms": 9}}, "email", [], None),
    ("of the channel", {"max_per_day": {"sms": 9}}, "sms", [], 9),
    ("the first day", {"warm_up": WARM}, "email", [], 500),
    ("the first day, once it has begun", {"warm_up": WARM}, "email", ["2027-03-17"], 500),
    ("the second day", {"warm_up": WARM}, "email", ["2027-03-16"], 750),
    ("a week later, and nothing between", {"warm_up": WARM}, "email", ["2027-03-10"], 750),
    ("the third day", {"warm_up": WARM}, "email", ["2027-03-15", "2027-03-16"], 1125),
    ("the fourth", {"warm_up": WARM}, "email", ["2027-03-12", "2027-03-15", "2027-03-16"], 1687),
    ("a day noted twice is one", {"warm_up": WARM}, "email", ["2027-03-16", "2027-03-16"], 750),
    ("warm-up is for email", {"warm_up": WARM}, "sms", ["2027-03-16"], None),
    ("the lower of two", {"warm_up": WARM, "max_per_day": {"email": 600}}, "email", [], 500),
    (
        "the lower of two, once it has grown",
        {"warm_up": WARM, "max_per_day": {"email": 600}},
        "email",
        ["2027-03-16"],
        600,
    ),
]


@pytest.mark.parametrize(
    ("pace", "channel", "live_days", "limit"), [pytest.param(*rest, id=w) for w, *rest in LIMITS]
)
def test_a_days_limit(
    pace: dict[str, Any], channel: Channel, live_days: list[str], limit: int | None
) -> None:
    assert day_limit(sending(**pace), channel, live_days, TODAY) == limit


warm_ups = st.builds(WarmUp, start=st.integers(1, 10_000), growth=st.floats(1, 10))
days = st.lists(
    st.dates(date(2026, 1, 1), date(2027, 12, 31)).map(date.isoformat), max_size=40, unique=True
)


@given(warm_up=warm_ups, live=days, more=days, today=st.dates(date(2026, 1, 1), date(2028, 1, 1)))
def test_a_days_limit_never_falls_as_live_days_grow(
    warm_up: WarmUp, live: list[str], more: list[str], today: date
) -> None:
    pace = Sending(warm_up=warm_up)
    fewer, limit = (day_limit(pace, "email", some, today) for some in (live, live + more))
    assert fewer is not None
    assert limit is not None
    assert warm_up.start <= fewer <= limit


def test_a_limit_that_has_grown_for_years_is_a_number_still() -> None:
    pace = Sending(warm_up=WarmUp(start=1_000_000, growth=10))
    live = [(TODAY - timedelta(days=number)).isoformat() for number in range(2000)]
    limit = day_limit(pace, "email", live, TODAY)
    assert limit is not None
    assert limit > 10**9
    assert parcel_size(pace, "email", domain="", sender_maximum=1000, day_limit=limit) == 500


# Days on which nothing left

CLAIMED, ACCEPTED = State.CLAIMED, State.ACCEPTED
IDLE: list[tuple[str, str, list[tuple[str, State, bool]], bool]] = [
    # when, now, parcels claimed in Hong Kong (when, state, seed), whether Wednesday is idle
    ("no parcel at all", "Thu 2027-03-18 09:00", [], True),
    ("one was accepted", "Thu 2027-03-18 09:00",
     [("Wed 2027-03-17 09:00", ACCEPTED, False)], False),
    ("one is in doubt", "Thu 2027-03-18 09:00",
     [("Wed 2027-03-17 23:59", State.AMBIGUOUS, False)], False),
    ("it was given back", "Thu 2027-03-18 09:00",
     [("Wed 2027-03-17 09:00", State.PLANNED, False)], True),
    ("a seed address", "Thu 2027-03-18 09:00", [("Wed 2027-03-17 09:00", ACCEPTED, True)], True),
    ("the day before", "Thu 2027-03-18 09:00",
     [("Tue 2027-03-16 23:59", ACCEPTED, False), ("Thu 2027-03-18 00:00", CLAIMED, False)], True),
    ("the day itself", "Wed 2027-03-17 23:59", [], False),
    ("hardly over", "Thu 2027-03-18 00:59", [], False),
    ("over for an hour", "Thu 2027-03-18 01:00", [], True),
    ("three days ago", "Sat 2027-03-20 23:59", [], True),
    ("too long ago to be seen", "Sun 2027-03-21 00:00", [], False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("now", "claims", "idle"), [pytest.param(*rest, id=when) for when, *rest in IDLE]
)
def test_a_day_on_which_nothing_left_after_all_is_idle(
    now: str, claims: list[tuple[str, State, bool]], idle: bool
) -> None:
    parcels = [
        make_parcel(touched_at=local(when), state=state, seed=seed) for when, state, seed in claims
    ]
    found = find_idle_days(["2027-03-10", "2027-03-17"], parcels, local(now), EXAMPLE.zone)
    assert found == ({"2027-03-17"} if idle else set())


def make_parcel(**fields: Any) -> Parcel:
    """A parcel of one person."""
    return Parcel(
        campaign="hku",
        shard=0,
        key="20270317|0",
        sweep=1,
        version=1,
        touch="fortnight",
        channel="email",
        message="reminder",
        language="en",
        ids=bytes(16),
        not_before=local("Wed 2027-03-17 09:00"),
        not_after=local("Sat 2027-03-20 09:00"),
        planned_from=NOON,
        outbox="",
        offset=0,
        length=0,
        digest=b"",
        **fields,
    )


# Sizes of parcels


HOURLY = {"max_per_domain_per_hour": {"gmail.com": 2400}}

SIZES: list[tuple[str, dict[str, Any], Channel, str, int, int | None, int]] = [
    # what decides, the file, channel, domain, the sender's maximum, the day's limit, recipients
    ("parcel_size", {}, "email", "", 1000, None, 500),
    ("the sender", {"parcel_size": 1000}, "email", "", 800, None, 800),
    ("the hour", {"max_per_hour": {"email": 1200}}, "email", "", 1000, None, 100),
    ("the hour, rounded down", {"max_per_hour": {"email": 1211}}, "email", "", 1000, None, 100),
    ("the hour, one at least", {"max_per_hour": {"email": 5}}, "email", "", 1000, None, 1),
    ("not another channel's hour", {"max_per_hour": {"sms": 12}}, "email", "", 1000, None, 500),
    ("the domain", HOURLY, "email", "gmail.com", 1000, None, 200),
    ("not another domain", HOURLY, "email", "", 1000, None, 500),
    ("a quarter of the day", {}, "email", "", 1000, 500, 125),
    ("a quarter of the day, one at least", {}, "email", "", 1000, 3, 1),
    ("the smallest of all", {"max_per_hour": {"email": 1200}}, "email", "", 1000, 300, 75),
    ("an SMS is one", {}, "sms", "", 1, None, 1),
]


@pytest.mark.parametrize(
    ("pace", "channel", "domain", "sender_maximum", "limit", "size"),
    [pytest.param(*rest, id=what) for what, *rest in SIZES],
)
def test_a_parcel_holds_as_many_as_every_limit_allows(
    pace: dict[str, Any],
    channel: Channel,
    domain: str,
    sender_maximum: int,
    limit: int | None,
    size: int,
) -> None:
    pace_ = sending(**pace)
    assert size == parcel_size(
        pace_, channel, domain=domain, sender_maximum=sender_maximum, day_limit=limit
    )


@given(
    size=st.integers(1, 1000),
    maximum=st.integers(1, 1000),
    per_hour=st.none() | st.integers(1, 100_000),
    per_domain=st.none() | st.integers(1, 100_000),
    limit=st.none() | st.integers(1, 100_000),
)
def test_a_parcel_fits_into_everything_that_it_must_pass(
    size: int, maximum: int, per_hour: int | None, per_domain: int | None, limit: int | None
) -> None:
    """However small the limits, a full bucket and a new day have room for it."""
    pace = sending(
        parcel_size=size,
        max_per_hour={"email": per_hour} if per_hour else {},
        max_per_domain_per_hour={"gmail.com": per_domain} if per_domain else {},
    )
    held = parcel_size(pace, "email", domain="gmail.com", sender_maximum=maximum, day_limit=limit)
    assert 1 <= held <= min(size, maximum)
    for hourly in (per_hour, per_domain):
        assert hourly is None or held <= refill(None, NOON, hourly)
    assert limit is None or held <= max(1, limit / 4)


# Domains


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("reader@gmail.com", "gmail.com"),
        ("reader@GMail.com", "gmail.com"),
        ("reader@mail.gmail.com", ""),
        ("reader@notgmail.com", ""),
        ("gmail.com@hku.hk", ""),
        ("reader@xn--mller-kva.example", "xn--mller-kva.example"),
        ("+85291234567", ""),
    ],
)
def test_the_limited_domain_of_an_address(address: str, domain: str) -> None:
    limits = sending(max_per_domain_per_hour={"Gmail.com": 2000, "müller.example": 10})
    assert domain_of(address, limits.max_per_domain_per_hour) == domain


@given(st.sampled_from(["GMAIL.com", "müller.example", "MÜLLER.example", "münchen.example"]))
def test_a_domain_is_found_however_file_and_directory_write_it(domain: str) -> None:
    limits = sending(max_per_domain_per_hour={domain: 10}).max_per_domain_per_hour
    address = usable_email(f"reader@{domain.lower()}")
    assert address is not None
    assert [domain_of(address, limits)] == list(limits)


# Admission


def admitted(
    parcels: list[tuple[int, str]],
    channel_tokens: float = INFINITE,
    day_left: float = INFINITE,
    most: int = 1000,
    **domain_tokens: float,
) -> tuple[int, ...]:
    tokens = {f"{name}.com": number for name, number in domain_tokens.items()}
    return admit(
        parcels,
        most=most,
        channel_tokens=channel_tokens,
        domain_tokens=tokens,
        day_left=day_left,
    ).chosen


A, B, ELSEWHERE = "a.com", "b.com", ""


def test_without_limits_all_may_go() -> None:
    assert admitted([(500, ELSEWHERE), (500, A), (1, B)]) == (0, 1, 2)


def test_nobody_overtakes_whom_the_channels_tokens_do_not_cover() -> None:
    assert admitted([(5, ELSEWHERE), (6, ELSEWHERE), (1, ELSEWHERE)], channel_tokens=10) == (0,)
    assert admitted([(5, ELSEWHERE), (5, ELSEWHERE), (1, ELSEWHERE)], channel_tokens=10) == (0, 1)


def test_nobody_overtakes_whom_the_days_rest_does_not_cover() -> None:
    assert admitted([(5, ELSEWHERE), (6, ELSEWHERE), (1, ELSEWHERE)], day_left=10) == (0,)


def test_a_domain_without_tokens_is_passed_over_and_holds_up_nobody_else() -> None:
    assert admitted([(5, A), (5, ELSEWHERE), (5, B)], a=4, b=5) == (1, 2)


def test_no_more_parcels_go_than_may_and_what_waits_for_its_domain_is_none_of_them() -> None:
    parcels = [(5, ELSEWHERE)] + [(5, A)] * 9 + [(5, ELSEWHERE)] * 3
    assert admitted(parcels, most=3, a=4) == (0, 10, 11)
    assert admitted(parcels, most=0, a=4) == ()
    left = admit(
        [(5, A), (5, A)], most=1, channel_tokens=9, domain_tokens={A: 9}, day_left=INFINITE
    )
    assert (left.channel_tokens, left.domain_tokens) == (4, {A: 4})


def test_within_a_domain_nobody_overtakes_either() -> None:
    assert admitted([(5, A), (2, A), (5, ELSEWHERE)], a=4) == (2,)


def test_a_domains_parcels_take_the_channels_tokens_too() -> None:
    assert admitted([(5, A), (5, ELSEWHERE), (1, ELSEWHERE)], channel_tokens=9, a=5) == (0,)


def test_what_waits_for_its_domain_stops_nothing_even_where_the_channel_lacks_tokens_for_it() -> (
    None
):
    assert admitted([(8, A), (5, ELSEWHERE)], channel_tokens=6, a=4) == (1,)


def test_what_is_left_is_told() -> None:
    parcels = [(3, A), (2, ELSEWHERE), (9, B)]
    left = admit(
        parcels,
        most=1000,
        channel_tokens=20,
        domain_tokens={A: 4.5, B: 1},
        day_left=INFINITE,
    )
    assert left.chosen == (0, 1)
    assert left.channel_tokens == 15
    assert left.domain_tokens == {A: 1.5, B: 1}
    assert left.day_left == INFINITE


queues = st.lists(st.tuples(st.integers(1, 50), st.sampled_from([ELSEWHERE, A, B])), max_size=40)
amounts = st.one_of(st.just(INFINITE), st.integers(0, 400), st.floats(0, 400))


@given(
    parcels=queues,
    most=st.integers(0, 50),
    channel=amounts,
    day=amounts,
    a=amounts,
    b=amounts,
)
def test_admission_keeps_every_limit_and_the_order(
    parcels: list[tuple[int, str]], most: int, channel: float, day: float, a: float, b: float
) -> None:
    given_ = {A: a, B: b}
    result = admit(parcels, most=most, channel_tokens=channel, domain_tokens=given_, day_left=day)
    assert len(result.chosen) <= most
    sizes = [parcels[index] for index in result.chosen]
    total = sum(recipients for recipients, _ in sizes)
    assert list(result.chosen) == sorted(set(result.chosen))
    assert total <= min(channel, day)
    assert result.channel_tokens == pytest.approx(channel - total)
    assert result.day_left == pytest.approx(day - total)
    for domain in (A, B):
        of_domain = sum(recipients for recipients, name in sizes if name == domain)
        assert of_domain <= given_[domain]
        assert result.domain_tokens[domain] == pytest.approx(given_[domain] - of_domain)
        # Of one domain the first ones go, without a gap.
        turns = [index for index, (_, name) in enumerate(parcels) if name == domain]
        gone = [index for index in turns if index in result.chosen]
        assert gone == turns[: len(gone)]
    # Who was passed over before the last one that goes waits for a domain.
    end = max(result.chosen, default=-1)
    assert all(parcels[index][1] for index in set(range(end)) - set(result.chosen))


@given(parcels=queues, most=st.integers(0, 50), channel=amounts, day=amounts)
def test_admission_stops_no_sooner_than_it_must(
    parcels: list[tuple[int, str]], most: int, channel: float, day: float
) -> None:
    """The next one that no domain holds back would be one too many."""
    result = admit(parcels, most=most, channel_tokens=channel, domain_tokens={A: 0}, day_left=day)
    waiting = [
        recipients
        for index, (recipients, domain) in enumerate(parcels)
        if index not in result.chosen and domain != A
    ]
    if waiting and len(result.chosen) < most:
        assert waiting[0] > min(result.channel_tokens, result.day_left)


# The canary


@given(st.integers(1, 1000))
def test_the_shards_shares_of_a_canary_add_up(recipients: int) -> None:
    shares = [canary_share(recipients, shard) for shard in range(len(SHARDS))]
    assert sum(shares) == recipients
    assert max(shares) - min(shares) <= 1


WAIT = 7200.0

CANARIES: list[tuple[str, bool, int, int, float | None, CanaryResult]] = [
    # when, open, recipients, delivered, seconds since the last was accepted, result
    ("nothing is sent yet", True, 0, 0, None, CanaryResult.WAITING),
    ("one parcel is still out", True, 50, 39, 10, CanaryResult.WAITING),
    ("one is still out, and the others are enough", True, 50, 40, 10, CanaryResult.PASSED),
    ("one parcel is still out, for long", True, 50, 0, 9000, CanaryResult.WAITING),
    ("no receipts yet", False, 50, 0, 10, CanaryResult.WAITING),
    ("one short of the share", False, 50, 39, 7199, CanaryResult.WAITING),
    ("the share is delivered", False, 50, 40, 10, CanaryResult.PASSED),
    ("everybody is", False, 50, 50, 10, CanaryResult.PASSED),
    ("late, and delivered all the same", False, 50, 40, 9000, CanaryResult.PASSED),
    ("one short, and two hours are over", False, 50, 39, 7200, CanaryResult.FAILED),
    ("no receipts for two hours", False, 50, 0, 7200, CanaryResult.FAILED),
    ("none was accepted", False, 0, 0, None, CanaryResult.FAILED),
    ("all were left out since", False, 0, 0, 10, CanaryResult.FAILED),
    ("of one, one", False, 1, 1, 10, CanaryResult.PASSED),
]


@pytest.mark.parametrize(
    ("open_", "recipients", "delivered", "seconds", "result"),
    [pytest.param(*rest, id=when) for when, *rest in CANARIES],
)
def test_a_canary(
    open_: bool, recipients: int, delivered: int, seconds: float | None, result: CanaryResult
) -> None:
    judged = judge_canary(
        Canary(recipients=50, delivered=0.8),
        open=open_,
        recipients=recipients,
        delivered=delivered,
        last_called=None if seconds is None else NOON,
        now=after(seconds or 0),
        wait=WAIT,
    )
    assert judged == result


@given(percent=st.integers(1, 100), hundreds=st.integers(1, 10))
def test_a_share_that_is_met_exactly_is_met(percent: int, hundreds: int) -> None:
    judged = [
        judge_canary(
            Canary(delivered=percent / 100),
            open=False,
            recipients=hundreds * 100,
            delivered=delivered,
            last_called=NOON,
            now=NOON,
            wait=WAIT,
        )
        for delivered in (hundreds * percent, hundreds * percent - 1)
    ]
    assert judged == [CanaryResult.PASSED, CanaryResult.WAITING]


# When it would all be out


def local(text: str) -> CampaignTime:
    """A time in Hong Kong such as "Wed 2027-03-17 09:00"; the weekday must be right."""
    moment = datetime.strptime(text, "%a %Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo("Asia/Hong_Kong"))
    assert moment.strftime("%a") == text[:3], f"{text} is a {moment:%A}"
    return CampaignTime(moment.astimezone(UTC))


def campaign_with(**pace: Any) -> Campaign:
    return EXAMPLE.model_copy(update={"sending": sending(**pace)})


DAILY = {"max_per_day": {"email": 1000}}
BY_HOUR = {"max_per_hour": {"email": 100}}
GROWING = {"warm_up": WARM}

ENDS: list[tuple[str, dict[str, Any], int, str, str, str | None]] = [
    # when, the file, recipients, not_before, not_after, the day (None: in time)
    ("no limits", {}, 10**7, "Wed 2027-03-17 09:00", "Wed 2027-03-17 09:01", None),
    ("nobody", DAILY, 0, "Wed 2027-03-17 09:00", "Wed 2027-03-17 09:01", None),
    ("a day's limit", DAILY, 1000, "Wed 2027-03-17 09:00", "Wed 2027-03-17 18:00", None),
    ("one more", DAILY, 1001, "Wed 2027-03-17 09:00", "Wed 2027-03-17 18:00", "2027-03-18"),
    ("two days", DAILY, 1001, "Wed 2027-03-17 09:00", "Thu 2027-03-18 18:00", None),
    ("over the weekend", DAILY, 2001, "Thu 2027-03-18 09:00", "Fri 2027-03-19 18:00", "2027-03-22"),
    ("nine hours", BY_HOUR, 900, "Wed 2027-03-17 09:00", "Thu 2027-03-18 09:00", None),
    ("one more", BY_HOUR, 901, "Wed 2027-03-17 09:00", "Thu 2027-03-18 09:00", "2027-03-18"),
    ("from five on", BY_HOUR, 100, "Wed 2027-03-17 17:00", "Thu 2027-03-18 09:00", None),
    ("from five on", BY_HOUR, 101, "Wed 2027-03-17 17:00", "Thu 2027-03-18 09:00", "2027-03-18"),
    ("until ten", BY_HOUR, 101, "Wed 2027-03-17 09:00", "Wed 2027-03-17 10:00", "2027-03-17"),
    ("from the evening on", BY_HOUR, 100, "Wed 2027-03-17 20:00", "Thu 2027-03-18 10:00", None),
    (
        "the lower of hour and day",
        BY_HOUR | {"max_per_day": {"email": 500}},
        1001,
        "Wed 2027-03-17 09:00",
        "Thu 2027-03-18 18:00",
        "2027-03-19",
    ),
    # 500, 750, 1125, then Monday 1687
    ("it warms up", GROWING, 2375, "Wed 2027-03-17 09:00", "Sat 2027-03-20 09:00", None),
    ("one more", GROWING, 2376, "Wed 2027-03-17 09:00", "Sat 2027-03-20 09:00", "2027-03-22"),
    ("an evening is no live day", GROWING, 501, "Wed 2027-03-17 20:00", "Thu 2027-03-18 18:00",
     "2027-03-19"),
    ("for ever", {"max_per_day": {"email": 1}}, 10**6, "Wed 2027-03-17 09:00",
     "Sat 2027-03-20 09:00", "2029-12-11"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("pace", "recipients", "not_before", "not_after", "day"),
    [pytest.param(*rest, id=f"{number} {when}") for number, (when, *rest) in enumerate(ENDS)],
)
def test_what_the_pace_cannot_finish_in_time_has_a_day(
    pace: dict[str, Any], recipients: int, not_before: str, not_after: str, day: str | None
) -> None:
    ends = finish_day(
        campaign_with(**pace),
        "email",
        recipients=recipients,
        not_before=local(not_before),
        not_after=local(not_after),
        live_days=[],
    )
    assert ends == (date.fromisoformat(day) if day else None)


def test_days_that_were_live_before_count() -> None:
    in_time = [
        finish_day(
            campaign_with(**GROWING),
            "email",
            recipients=750,
            not_before=local("Wed 2027-03-17 09:00"),
            not_after=local("Wed 2027-03-17 18:00"),
            live_days=live_days,
        )
        for live_days in ([], ["2027-03-17"], ["2027-03-16"])
    ]
    assert in_time == [date(2027, 3, 18), date(2027, 3, 18), None]


def naive_finish_day(
    pace: Sending, recipients: int, start: datetime, end: datetime, live_days: set[str]
) -> date | None:
    """Hour by hour: as many as the hour and what is left of the day allow."""
    live, hour, today, all_ = set(live_days), start, 0, recipients
    while True:
        if hour.hour == 0 or hour == start:
            today = 0
        if pace.window.from_.hour <= hour.hour < pace.window.until.hour and (
            hour.weekday() in pace.window.days
        ):
            limit = pace.max_per_day.get("email", all_)
            if pace.warm_up:
                grown = pace.warm_up.growth ** len({d for d in live if d < str(hour.date())})
                limit = min(limit, int(pace.warm_up.start * grown))
            hour_limits = (
                pace.max_per_hour.get("email", all_),
                pace.max_per_domain_per_hour.get("gmail.com", all_),
            )
            sent = min(recipients, *hour_limits, limit - today)
            recipients -= sent
            today += sent
            live |= {str(hour.date())} if sent else set()
            if not recipients:
                return None if hour < end else hour.date()
        hour += timedelta(hours=1)


@given(
    recipients=st.integers(1, 3000),
    per_hour=st.none() | st.integers(10, 200),
    at_domain=st.none() | st.integers(10, 200),
    per_day=st.none() | st.integers(50, 900),
    warm_up=st.none()
    | st.builds(WarmUp, start=st.integers(40, 300), growth=st.sampled_from([1.0, 1.25, 1.5, 3.0])),
    start=st.integers(0, 60),
    length=st.integers(1, 120),
    days_open=st.sampled_from(["mon-fri", "mon-sun", "tue,sat"]),
    before=st.sets(st.sampled_from(["2027-03-11", "2027-03-15", "2027-03-16"])),
)
def test_the_day_is_that_of_counting_hour_by_hour(
    recipients: int,
    per_hour: int | None,
    at_domain: int | None,
    per_day: int | None,
    warm_up: WarmUp | None,
    start: int,
    length: int,
    days_open: str,
    before: set[str],
) -> None:
    zone = ZoneInfo("Asia/Hong_Kong")
    begin = datetime(2027, 3, 15, tzinfo=zone) + timedelta(hours=start)
    end = begin + timedelta(hours=length)
    pace = Sending(
        window=Window.model_validate({"days": days_open}),
        max_per_hour={"email": per_hour} if per_hour else {},
        max_per_domain_per_hour={"gmail.com": at_domain} if at_domain else {},
        max_per_day={"email": per_day} if per_day else {},
        warm_up=warm_up,
    )
    found = finish_day(
        EXAMPLE.model_copy(update={"sending": pace}),
        "email",
        recipients=recipients,
        not_before=CampaignTime(begin.astimezone(UTC)),
        not_after=CampaignTime(end.astimezone(UTC)),
        live_days=sorted(before),
        domain="gmail.com",
    )
    assert found == naive_finish_day(pace, recipients, begin, end, before)
