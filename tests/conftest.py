"""For all tests: a process started in the background of a script ignores SIGINT, and its children inherit that.

Tests that interrupt a child would wait for ever then, so the usual disposition is restored first.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
