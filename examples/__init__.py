"""Programs on trio_ws, small and not so small."""
