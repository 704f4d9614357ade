"""Insert the decision about the winner at the top of the evaluation's page."""

from collections.abc import Mapping
from typing import Any

from darkroom.evaluation.page import with_decision
from darkroom.promotion import model_card
from darkroom.promotion.outcome import in_words


def decided(page: str, said: Mapping[str, Any]) -> str:
    """Return the page of evaluate with the decision in it.

    Args:
        said: contents of reports/promotion.json.
    """
    template = model_card.environment().get_template("decision.html.j2")
    section = template.render(words=in_words(said), said=said, gates=model_card.gates(said["tests"]))
    return with_decision(page, section)
