"""Gates, the decision, the registration of the winner, its model card. Open decision.py first."""
