"""Objects in a bucket as a source: one event for each new content of a key, found by listing.

Nobody tells of what happens in a bucket unless it is set up to, so it is listed, again and again, page by page.
Each object is compared with a ledger of what was emitted: by its ETag (and version, where there are versions), or where a
store has none, by size and time. Event and ledger entry are stored in one transaction. The identity of an event is the
bucket, the key and the ETag, so that a lost ledger, or a listing that is made again, repeats nothing.

A poll works for a short while and asks to be called again, so that a bucket of a million objects does not keep anybody
waiting; in memory are one page and two numbers for each object. A key that is gone is forgotten, after a listing that
came to its end; if it comes back with the same ETag, that is not news.

S3 is asked for its own pages; other stores are walked through directory by directory. Both go through fsspec, which is
imported when the first listing begins. With `group`, several objects are one event (`core/grouping.py`).
"""

from controller.sources.bucket.options import BucketOptions
from controller.sources.bucket.source import BucketSource

__all__ = ["BucketOptions", "BucketSource"]
