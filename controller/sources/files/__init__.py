"""Files in a folder as a source: one event for each content that a path comes to hold.

Notifications lose events without telling anybody, so they are only a hint that makes us fast. The
truth is a scan of the tree, at the start and then regularly, which compares what is there with a
ledger of what was emitted. Both end in the same place: a path is *sighted*, waits until it has not
changed for `settle`, is read, and becomes an event if its content is another one than the ledger
has. Event and ledger entry are stored in one transaction, so a crash at any point neither loses nor
repeats.

The identity of an event is path and *generation*, which rises with each new content of the path: A,
B, A again are three. The ledger keeps an entry when its file is deleted, so the same bytes at the
same path are one event, however often they are brought. Content is the SHA-256; where that is not
computed (`digest: false`, or above `digest_limit`) it is size, mtime and inode.

Unchanged files are recognised by size, mtime, ctime and inode (`Stamp`) without being opened. In
memory there are two hashes for each known file and at most `SIGHTED_LIMIT` sighted ones; a scan
that finds more pauses until these are emitted.

Names are bytes to the system and text to everybody else. A name that is not UTF-8, or has a control
character or what looks like an escape (`%41`), is percent-escaped in keys and events;
`urllib.parse.unquote_to_bytes` gives the real one, of any name.

Symbolic links are not followed, at no level below the root; only regular files count.

With `group`, a file is no event but a part of a data set, which is one when it is complete
(`core/grouping.py`). Its parts are written with the files themselves; the event is a second
transaction, after a look that the folder holds nothing new.
"""

from controller.sources.files.options import FileOptions
from controller.sources.files.source import FileSource

__all__ = ["FileOptions", "FileSource"]
