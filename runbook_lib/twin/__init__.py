"""The emulated cluster: real SSH, a real shell, real files, a real HTTP service. Shares no code with what it tests."""
