"""Planning, release, dispatch and receipts against every order of events that a machine may think
of: crashes between any two steps, lost answers, messages that come twice, two workers.

    edge       what stands between a worker and the world, and lets each request wait
    world      two workers on one storage, their messages, and time
    promises   what must hold whatever happens
    machine    the rules by which hypothesis makes things happen, and how it all heals at the end
    planted    mistakes that the machine must find, in a copy of the tree

`python -m tests.model --examples N` runs it longer; `--planted` shows what it finds.
"""
