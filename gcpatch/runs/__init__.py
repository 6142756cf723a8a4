"""Many images, resumable, on many devices and hosts: campaigns and their folders."""
