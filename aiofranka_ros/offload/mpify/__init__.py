"""``mpify``: objects that live in a separate process and are called like local ones.

Users see ``isolated``. ``process`` and ``calls`` are the parent's side, ``worker`` is the child's; ``protocol`` and
``arrays`` define what travels between them.
"""
