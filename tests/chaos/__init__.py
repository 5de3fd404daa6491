"""The product as real processes over storage on disk, and what becomes of it when they die.

    scene      storage, simulated services and hosts, each a process that can be killed
    weather    what goes wrong at the provider, and how it tells of what it took
    storm      a wave from its sweep to its last doubt, with the host killed again and again
    findings   what must hold afterwards, from what the inbox accepted and what the ledger says

`python -m tests.chaos` runs it at full size and prints what happened.
"""
