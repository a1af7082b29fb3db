"""What you see while cpplug works: the log (``log``) and the progress bar (``progress``).

Both only listen to the events of a run. A listener is a module with a ``cpplug_event`` hook and,
if it has anything to set, a function ``configure(options)`` that is called once before the run
with the user's choices: ``long_log`` (bool), ``log_level`` (list of ``[COMPONENT=]LEVEL``) and
``log_file`` (path or None). Each listener takes what concerns it.
"""
