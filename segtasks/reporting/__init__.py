"""What people look at: overlays, contact sheets and the one-page HTML report. Values in, bytes or text out: nothing is read or written."""
