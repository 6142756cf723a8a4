"""The verbs that read what runs wrote, one file each."""
