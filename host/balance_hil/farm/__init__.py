"""Work that is spread over processes and computers."""
