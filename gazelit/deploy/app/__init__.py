"""``gazelit app``: a page on this machine to read films, to browse a store and to look at reports."""
