"""What the three containers have in common, and so have once.

Invariant: nothing here knows a container, and a module imports only what it is about: whoever wants one pays for that one.
"""
