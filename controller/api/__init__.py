"""The HTTP API: events in, questions answered, people's acts. FastAPI is imported only by `app.py`, and that only by the daemon."""
