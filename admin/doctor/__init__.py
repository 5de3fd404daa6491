"""`nudge doctor`: what is still missing between here and live, one row each, and what to do.

    subject ─► campaigns, stored facts ─► looks, side by side ─► rows, in the order of deployment

It changes nothing and prints no secret. What cannot be looked at from here says so and why: no
network, no sign-in or no right is never taken for a fault of the deployment.
"""
