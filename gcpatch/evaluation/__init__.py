"""What an attack achieved: metrics, intervals, transfer, defences, speed."""
