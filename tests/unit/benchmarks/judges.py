"""Models for tests of judged benchmarks: they answer or judge by a rule, and note what they are asked."""

from pairsight.models.protocols import Generator
from pairsight.records import Completion, ItemError


class Says(Generator):
    """Answers each prompt by a rule of its last message's text; the rule may give an error."""

    fingerprint = ""

    def __init__(self, name, rule):
        self.fingerprint = name
        self.rule = rule
        self.asked = []
        self.samplings = []

    def generate(self, requests, sampling):
        return [self._one(request, sampling) for request in requests]

    def _one(self, request, sampling):
        self.asked.append(request.prompt)
        self.samplings.append(sampling)
        said = self.rule(request.prompt.messages[-1].text)
        if isinstance(said, ItemError):
            return said
        return Completion("c", request.prompt.id, said, "stop", self.fingerprint, request.seed, request.sample_index)
