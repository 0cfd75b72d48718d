"""What is acted in: a simulator's protocol, the registry by suite, one folder per simulator."""
