"""pi0 and Realtime-VLA FLASH inference; knows no simulator, no socket and no file format but the artifact."""
