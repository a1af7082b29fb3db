"""Where units of work are done: in this process, in threads, or in worker processes.

Each is chosen by name (``--executor``). Processes are the choice for more than one job: reading
compressed frames and correcting them holds Python's lock much of the time. Threads share one
memory, start at once, and cannot outlive a crash. Serial does one unit after the other.
"""
