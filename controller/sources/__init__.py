"""What turns the world into events: one source each, found through entry points (`controller.sources`)."""
