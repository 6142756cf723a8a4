"""Three walks through gcpatch, from files to answers: each a short script that runs as it is."""
