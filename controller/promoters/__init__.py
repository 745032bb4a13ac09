"""What carries a promotion out, found through entry points (`controller.promoters`)."""
