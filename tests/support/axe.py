"""Faults of accessibility, found by axe-core (https://github.com/dequelabs/axe-core) in
the tests' browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.support.browser import Browser, PageLeft
from tests.support.environments import AXE_VENV
from tests.support.waiting import wait_until

#: What hinders people; the rest is advice.
_GRAVE = ("serious", "critical")
#: Colours that are on their way from one to another would be taken for faults.
_AT_ONCE = (
    "document.head.append(Object.assign(document.createElement('style'), {textContent: "
    "'* { transition: none !important; animation: none !important }'}))"
)
_RUN = (
    "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
    ".then(() => axe.run(WITHIN, OPTIONS))"
    ".then(found => JSON.stringify(found.violations.map(v => ({id: v.id, "
    "impact: v.impact, help: v.help, "
    "nodes: v.nodes.map(n => [n.html, n.failureSummary])}))))"
)


def faults(browser: Browser, within: str = "html", *rules: str) -> list[str]:
    """The serious and critical ones of the page that is shown.

    Args:
        browser: shows it.
        within: selects the part that is looked at.
        rules: those that are looked for, if not all.
    """
    try:
        found = _violations(browser, within, rules)
    except PageLeft:
        wait_until(
            lambda: browser.evaluate(f"!!document.querySelector({within!r})"),
            60,
            "the page, once more",
        )
        found = _violations(browser, within, rules)
    return [
        f"{each['id']}: {each['help']}: {html[:300]} ({' '.join(why.split())[:200]})"
        for each in found
        if each["impact"] in _GRAVE
        for html, why in each["nodes"]
    ]


def _violations(
    browser: Browser, within: str, rules: Sequence[str]
) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = rules
    if not browser.evaluate("!!window.axe"):
        (script,) = AXE_VENV.glob("lib/python3*/site-packages/*/axe.min.js")
        browser.evaluate(script.read_text(encoding="utf-8"))
        browser.evaluate(_AT_ONCE)
    answer = browser.call(
        "Runtime.evaluate",
        expression=_RUN.replace("WITHIN", json.dumps(within)).replace(
            "OPTIONS", json.dumps(options)
        ),
        awaitPromise=True,
        returnByValue=True,
    )
    violations: list[dict[str, Any]] = json.loads(answer["result"]["value"])
    return violations
