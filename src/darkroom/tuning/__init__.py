"""The search of the stage tune: space, study, trials, choice, report. Open coordinator.py first."""
