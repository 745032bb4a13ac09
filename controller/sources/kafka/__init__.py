"""Records of Kafka topics become events, each once, whatever dies in between.

Kafka remembers a group's offsets, but not in the transaction that stores our events: whoever commits first loses or repeats.
So the positions lie in our ledger, written with the events of each poll, and ours win over the group's; the group's offsets follow, for
people and their tools to see. What retention took before we read it, and a topic that was made anew, is told as a `source.gap` event.

A thread of its own talks to the broker (`reader.py`), so that a slow store never looks like a dead member; the source's thread stores
(`source.py`), and what goes from one to the other lies on a desk between them (`desk.py`).
The two clients (`client_python.py`, `client_confluent.py`) stand behind one seam (`client.py`); decoding (`decode.py`) and the choice of
where to read (`positions.py`) are pure.
"""

from controller.sources.kafka.source import KafkaSource

__all__ = ["KafkaSource"]
